"""What one deployment of the pipeline needs to know: the spec, the logs, the days and the data root."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from ctr_pipeline.engines.base import EngineName
from ctr_pipeline.spec import Spec, SpecError, load_spec, parse_spec, spec_hash

SETTINGS_FILE = "pipeline.json"
DEFAULT_SPEC = Path(__file__).resolve().parents[2] / "specs" / "ads.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """One spec bound to its logs and to the data root that holds everything made from them."""

    spec: Spec
    spec_text: str
    """The spec as the user wrote it."""
    spec_folder: Path
    """Folder against which relative paths of the spec are resolved."""
    data_root: Path
    inputs: tuple[Path, ...] = ()
    """Impression logs that replace those of the spec."""
    event_inputs: Mapping[str, tuple[Path, ...]]
    """Event logs, by name, that replace those of the spec."""
    first_day: date
    last_day: date | None = None
    """Last daily partition; None for a log that grows."""
    engine: EngineName = "duckdb"
    """What computes labels and history; the result is the same to the bit."""

    @property
    def lake_root(self) -> Path:
        """Folder of the Delta tables."""
        return self.data_root / "lake"

    @property
    def simulated_root(self) -> Path:
        """Folder of the simulated logs: outside the data root, like any user's raw logs."""
        return self.data_root.parent / "simulated_logs" / f"{self.spec.name}-{self.simulation_hash}"

    @property
    def simulation_hash(self) -> str:
        """Identifies the simulated world: its settings, seed and laws."""
        import hashlib

        from ctr_pipeline.simulator.laws import LAWS

        simulator = self.spec.source.simulator
        content = f"{self.spec.seed}:{simulator.model_dump_json() if simulator else ''}:{LAWS!r}"
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def dataset_folder(self, day: str) -> Path:
        """Folder of the view, the fitted vocabulary and the packed arrays of the retrain of ``day``."""
        return self.data_root / "datasets" / day

    def packed_folder(self, day: str) -> Path:
        """Folder of the memory-mapped arrays themselves."""
        return self.dataset_folder(day) / "packed"

    def training_folder(self, day: str) -> Path:
        """Folder of everything that the retrain of ``day`` makes: model, scores, metrics, bundle."""
        return self.data_root / "training" / day

    def result_file(self, asset: str, day: str) -> Path:
        """The file that proves that an asset of the retrain of ``day`` was made."""
        dataset, training = self.dataset_folder(day), self.training_folder(day)
        return {
            "examples": dataset / "examples.json",
            "position_propensity": dataset / "position_propensity.json",
            "advertiser_quality": dataset / "advertiser_quality.json",
            "vocabulary": dataset / "fitted" / "vocabulary.parquet",
            "training_dataset": self.packed_folder(day) / "manifest.json",
            "ranker": training / "model.pt",
            "calibrated_ranker": training / "calibration.json",
            "evaluation": training / "evaluation.json",
            "serving_bundle": training / "bundle" / "manifest.json",
            "champion": training / "release.json",
        }[asset]

    def save(self) -> None:
        """Writes the settings into the data root, where Dagster's processes find them."""
        self.data_root.mkdir(parents=True, exist_ok=True)
        content = {
            "spec": self.spec_text,
            "spec_folder": str(self.spec_folder),
            "inputs": [str(path) for path in self.inputs],
            "event_inputs": {name: [str(path) for path in paths] for name, paths in self.event_inputs.items()},
            "first_day": self.first_day.isoformat(),
            "last_day": self.last_day.isoformat() if self.last_day else None,
            "engine": self.engine,
        }
        temporary = self.data_root / f".{SETTINGS_FILE}.{os.getpid()}"
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.data_root / SETTINGS_FILE)

    @classmethod
    def load(cls, data_root: Path) -> "PipelineSettings":
        """The settings that :meth:`save` wrote into ``data_root``.

        Raises:
            SpecError: there are none, or they do not describe a valid spec.
        """
        path = data_root / SETTINGS_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SpecError(f"{path}: absent. Run `ctr run` or `ctr ui` with --data-root {data_root} first.") from error
        return cls(
            spec=parse_spec(content["spec"], where=str(path)),
            spec_text=content["spec"],
            spec_folder=Path(content["spec_folder"]),
            data_root=data_root,
            inputs=tuple(Path(p) for p in content["inputs"]),
            event_inputs={name: tuple(Path(p) for p in paths) for name, paths in content["event_inputs"].items()},
            first_day=date.fromisoformat(content["first_day"]),
            last_day=date.fromisoformat(content["last_day"]) if content["last_day"] else None,
            # Data roots of earlier versions do not say it.
            engine=content.get("engine", "duckdb"),
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "PipelineSettings":
        """The settings that Dagster's processes start with.

        ``CTR_DATA_ROOT`` names a data root with saved settings; without saved ones, ``CTR_SPEC`` names a spec
        (by default the bundled ``specs/ads.yaml``) that says by itself on which day its log begins.
        """
        root = environment.get("CTR_DATA_ROOT")
        if root and (Path(root) / SETTINGS_FILE).is_file():
            return cls.load(Path(root).resolve())
        path = Path(environment.get("CTR_SPEC", DEFAULT_SPEC))
        spec = load_spec(path)
        if spec.first_day is None:
            raise SpecError(
                f"{path}: set `days.first`, or start with `ctr run --spec {path}`, which finds it in the log."
            )
        return cls(
            spec=spec,
            spec_text=path.read_text(encoding="utf-8"),
            spec_folder=path.resolve().parent,
            data_root=Path(root).resolve() if root else Path.cwd() / "data" / spec.name,
            event_inputs={},
            first_day=spec.first_day,
            last_day=declared_last_day(spec),
        )


def declared_last_day(spec: Spec) -> date | None:
    """Last day of the log, where the spec alone says so."""
    if spec.days.last is not None:
        return spec.days.last
    simulator = spec.source.simulator
    return simulator.first_day + timedelta(days=simulator.days - 1) if simulator else None


def end_of_day_us(day: date) -> int:
    """The instant at which ``day`` (UTC) ends, in microseconds since 1970: the as-of of a run for that day."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    return int(midnight.timestamp()) * 1_000_000


def model_spec_hash(settings: PipelineSettings) -> str:
    """Hash of the spec, as recorded with every run."""
    return spec_hash(settings.spec)
