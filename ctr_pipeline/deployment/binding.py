"""Binds a spec to the logs and the data root that a command names."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from ctr_pipeline.deployment.deployment import Deployment, declared_last_day
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.deployment.raw_logs import list_logs, reading_time
from ctr_pipeline.spec import Spec, SpecError
from ctr_pipeline.spec.addresses import is_address

IMPRESSIONS = "impressions"


def bind(
    spec: Spec, spec_path: Path, inputs: Sequence[str], data_root: Path | None, start: date | None = None
) -> tuple[Deployment, date]:
    """The deployment, and the last day that its log holds.

    Args:
        spec: The validated spec.
        spec_path: The file that it was read from.
        inputs: ``PATH`` for impressions, ``NAME=PATH`` for the event log or side table NAME; replaces the spec's paths.
        data_root: Folder for everything made; by default ``data/<name of the spec>``.
        start: First day to read, where that is not the first of the log. A data root that began earlier keeps its
            beginning.

    Raises:
        SpecError: an input names no log of the spec, or the data root belongs to another spec.
        SourceError: the log cannot be read.
    """
    root = (data_root or Path("data") / spec.name).resolve()
    impressions, events = _split_inputs(spec, inputs)
    _refuse_foreign_root(root, spec)
    if spec.source.simulator is not None and (impressions or events):
        raise SpecError(f"{spec_path}: a simulated source takes no --input. Use a spec with source.impressions.")
    deployment = Deployment(
        spec=spec,
        spec_text=spec_path.read_text(encoding="utf-8"),
        spec_folder=spec_path.resolve().parent,
        data_root=root,
        inputs=impressions,
        event_inputs=events,
        first_day=spec.first_day or date.min,
        log_first_day=spec.first_day or date.min,
        last_day=declared_last_day(spec),
    )
    if spec.source.simulator is not None:
        last = deployment.last_day
        assert last is not None
    else:
        deployment, last = _with_range(deployment)
    if start is not None and start > deployment.first_day:
        held = Deployment.load(root).first_day if DataRoot(root).settings.is_file() else start
        deployment = replace(deployment, first_day=max(deployment.first_day, min(held, start)))
    return deployment, last


def reopen(spec: Spec, spec_path: Path, data_root: Path | None) -> Deployment | None:
    """The deployment that the data root already holds for this spec, now with the spec as it stands; None without one.

    Raises:
        SpecError: the data root belongs to another spec.
    """
    root = (data_root or Path("data") / spec.name).resolve()
    _refuse_foreign_root(root, spec)
    if not DataRoot(root).settings.is_file():
        return None
    held = Deployment.load(root)
    return replace(held, spec=spec, spec_text=spec_path.read_text(encoding="utf-8"))


def _with_range(deployment: Deployment) -> tuple[Deployment, date]:
    """The deployment with the days that the log itself has."""
    from ctr_pipeline.sources import log_range

    spec = deployment.spec
    logs = list_logs(deployment)
    log_first, log_last = log_range(spec, logs.impressions.files, reading_time(spec))
    deployment = replace(deployment, logs=logs)
    first, last = _with_stored(deployment, log_first, log_last) if _lacks_files(deployment) else (log_first, log_last)
    # A log whose first day is declared and whose last is not grows; its partitions go on.
    grows = spec.days.first is not None and spec.days.last is None
    return (
        replace(
            deployment,
            first_day=spec.days.first or first,
            log_first_day=max(spec.days.first or log_first, log_first),
            last_day=None if grows else (spec.days.last or last),
        ),
        min(last, spec.days.last) if spec.days.last else last,
    )


def _lacks_files(deployment: Deployment) -> bool:
    """Whether files that the data root was made from are gone, or were written again.

    Not of a log without a clock, whose days are counted from its first row on.
    """
    if deployment.spec.impression.time is None or not deployment.paths.settings.is_file():
        return False
    assert deployment.logs is not None
    held, stamps = Deployment.load(deployment.data_root), deployment.logs.stamps
    changed = any(stamps.get(path) != stamp for path, stamp in deployment.known_files().items())
    return changed or held.first_day < held.log_first_day


def _with_stored(deployment: Deployment, first: date, last: date) -> tuple[date, date]:
    """The days of the log and those that are stored."""
    from ctr_pipeline.lake import Lake

    lake = Lake(deployment.paths.lake)
    version = lake.version("impressions")
    if version is None:
        return first, last
    held = lake.facts("impressions", version)
    return min(first, held.first_day or first), max(last, held.last_day or last)


def _split_inputs(spec: Spec, inputs: Sequence[str]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The paths and addresses of the impression log, and those of each log of outcomes and side table; paths from the root on."""
    names = {log.name for log in (*spec.source.outcome_logs, *spec.source.tables)}
    impressions: list[str] = []
    events: dict[str, list[str]] = {}
    for text in inputs:
        # Addresses and names of folders may have a = themselves.
        name, separator, place = ("", "", text) if is_address(text) else text.partition("=")
        if separator and name in names:
            events.setdefault(name, []).append(_from_root(place))
        elif separator and name == IMPRESSIONS:
            impressions.append(_from_root(place))
        elif separator and not Path(text).exists():
            logs = ", ".join([IMPRESSIONS, *sorted(names)])
            raise SpecError(f"--input {name}=…: the spec has no log {name!r}. Its logs are: {logs}.")
        else:
            impressions.append(_from_root(text))
    return tuple(impressions), {name: tuple(places) for name, places in events.items()}


def _from_root(place: str) -> str:
    return place if is_address(place) else str(Path(place).absolute())


def _refuse_foreign_root(root: Path, spec: Spec) -> None:
    """One data root holds one project: tables of two logs must not mix."""
    if not DataRoot(root).settings.is_file():
        return
    held = Deployment.load(root).spec.name
    if held != spec.name:
        raise SpecError(f"{root} belongs to the spec {held!r}, not to {spec.name!r}. Choose another --data-root.")
