"""A spec bound to its logs, its days and its data root."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.bundled import bundled_spec
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.engines.base import EngineName
from ctr_pipeline.spec import Spec, SpecError, load_spec, parse_spec
from ctr_pipeline.spec.addresses import without_query

if TYPE_CHECKING:
    from ctr_pipeline.sources import Logs


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One spec bound to its logs and to the data root that holds everything made from them."""

    spec: Spec
    spec_text: str
    """The spec as the user wrote it."""
    spec_folder: Path
    """Folder against which relative paths of the spec are resolved."""
    data_root: Path
    inputs: tuple[str, ...] = ()
    """Paths and addresses of impression logs that replace those of the spec."""
    event_inputs: Mapping[str, tuple[str, ...]]
    """Those of event logs and side tables, by name, that replace those of the spec."""
    first_day: date
    last_day: date | None = None
    """Last daily partition; None for a log that grows."""
    log_first_day: date
    """First day that the log holds now. Days before it are stored, and their files are gone."""
    logs: "Logs | None" = None
    """The files of the logs as they were when the command began; None in processes that find out by themselves."""
    engine: EngineName = "duckdb"
    """What computes labels and history; the result is the same to the bit."""

    @property
    def paths(self) -> DataRoot:
        """Where things lie in the data root."""
        return DataRoot(self.data_root)

    @property
    def simulated_root(self) -> Path:
        """Folder of the simulated logs: outside the data root, like any user's raw logs."""
        return self.data_root.parent / "simulated_logs" / f"{self.spec.name}-{self.simulation_hash}"

    @property
    def simulation_hash(self) -> str:
        """Identifies the simulated marketplace: its settings, seed and laws."""
        from ctr_pipeline.simulator.laws import LAWS

        simulator = self.spec.source.simulator
        content = f"{self.spec.seed}:{simulator.model_dump_json() if simulator else ''}:{LAWS!r}"
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def save(self) -> None:
        """Writes the settings into the data root, where Dagster's processes find them."""
        self.data_root.mkdir(parents=True, exist_ok=True)
        content = {
            "spec": self.spec_text,
            "spec_folder": str(self.spec_folder),
            # Not the query of an address: it may hold a signature, and that is for this command alone.
            "inputs": [without_query(place) for place in self.inputs],
            "event_inputs": {
                name: [without_query(place) for place in places] for name, places in self.event_inputs.items()
            },
            "first_day": self.first_day.isoformat(),
            "log_first_day": self.log_first_day.isoformat(),
            "last_day": self.last_day.isoformat() if self.last_day else None,
            "engine": self.engine,
        }
        write_json(self.paths.settings, content)
        if self.logs is not None:
            write_json(self.paths.log_files, {**self.known_files(), **self.logs.stamps})

    def known_files(self) -> dict[str, str]:
        """The stamp of each file that earlier commands found in the logs, by its path."""
        return dict(read_json(self.paths.log_files))

    @classmethod
    def load(cls, data_root: Path) -> "Deployment":
        """The settings that :meth:`save` wrote into ``data_root``.

        Raises:
            SpecError: there are none, or they do not describe a valid spec.
        """
        path = DataRoot(data_root).settings
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SpecError(f"{path}: absent. Run `ctr run` or `ctr ui` with --data-root {data_root} first.") from error
        return cls(
            spec=parse_spec(content["spec"], where=str(path)),
            spec_text=content["spec"],
            spec_folder=Path(content["spec_folder"]),
            data_root=data_root,
            inputs=tuple(content["inputs"]),
            event_inputs={name: tuple(places) for name, places in content["event_inputs"].items()},
            first_day=date.fromisoformat(content["first_day"]),
            last_day=date.fromisoformat(content["last_day"]) if content["last_day"] else None,
            # Data roots of earlier versions do not have these.
            log_first_day=date.fromisoformat(content.get("log_first_day", content["first_day"])),
            engine=content.get("engine", "duckdb"),
        )

    @classmethod
    def from_environment(cls, environment: Environment) -> "Deployment":
        """The deployment that Dagster's processes start with.

        ``CTR_DATA_ROOT`` names a data root with saved settings; without saved ones, ``CTR_SPEC`` names a spec
        (by default the bundled ``ads.yaml``) that declares by itself on which day its log begins.
        """
        root = environment.data_root
        if root is not None and DataRoot(root).settings.is_file():
            return cls.load(root.resolve())
        path = environment.spec or bundled_spec("ads")
        spec = load_spec(path)
        if spec.first_day is None:
            raise SpecError(
                f"{path}: set `days.first`, or start with `ctr run --spec {path}`, which finds it in the log."
            )
        return cls(
            spec=spec,
            spec_text=path.read_text(encoding="utf-8"),
            spec_folder=path.resolve().parent,
            data_root=root.resolve() if root is not None else Path.cwd() / "data" / spec.name,
            event_inputs={},
            first_day=spec.first_day,
            log_first_day=spec.first_day,
            last_day=declared_last_day(spec),
        )


def declared_last_day(spec: Spec) -> date | None:
    """Last day of the log, where the spec alone determines it."""
    if spec.days.last is not None:
        return spec.days.last
    simulator = spec.source.simulator
    return simulator.first_day + timedelta(days=simulator.days - 1) if simulator else None


def end_of_day_us(day: date) -> int:
    """The instant at which ``day`` (UTC) ends, in microseconds since 1970: the as-of of a run for that day."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    return int(midnight.timestamp()) * 1_000_000
