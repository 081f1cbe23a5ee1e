"""Where the parts of a dataset begin and end: a simulated deployment in time order, or shares drawn at random."""

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.datasets.packed import SPLITS, DatasetError
from ctr_pipeline.datasets.split_parts import DrawnParts, SplitBounds, TaskBounds, instant_of, iso
from ctr_pipeline.labels import label_maturity, task_watermarks
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US, format_duration
from ctr_pipeline.spec.split import Slice

REFIT_ROWS = 5_000_000
"""Fewer training rows than this are learnt a second time, with those of the validation, where the spec does not say: it
costs as much as the first time."""


def split_bounds(spec: Spec, ts: NDArray[np.int64], as_of: int) -> SplitBounds:
    """Bounds of the parts of the dataset of a run as of ``as_of``.

    With W the longest maturity, the test is the latest interval whose rows are all W old at ``as_of``. Train, validation
    and calibration of a task are the rows whose label of that task is settled at the first instant of the test: those
    that are as old as its own maturity, or W with ``maturity: longest``. Slices in days begin and end at 00:00 UTC.
    Slices in fractions are shares of the rows that are W old at ``as_of``, to the row (rows with one and the same time
    stay together). Parts that are drawn at random are shares of those rows.

    With ``training.refit`` (by default below :data:`REFIT_ROWS` training rows) there is a part ``refit`` as well: training
    and validation, learnt together once the epochs are chosen. It ends where the calibration begins: with half of a slice
    that is short as it is, calibrators lose more than the model gains.

    Args:
        spec: Slices, tasks and ingest lag.
        ts: Times of all impressions, microseconds, in any order.
        as_of: End of the run's last day, microseconds.

    Raises:
        DatasetError: the log is too short for the slices; the message says how long it must be.
    """
    split, maturity = spec.split, spec.longest_maturity
    by_day = split.test.fraction is None
    ordered = np.sort(np.asarray(ts, dtype=np.int64))
    # Mature means ts + W <= as_of; ends are exclusive.
    horizon = as_of - maturity + 1
    if by_day:
        horizon = _midnight(horizon)
    mature = int(np.searchsorted(ordered, horizon))
    if mature == 0:
        raise _too_short(spec, ordered, as_of)
    log_end = _midnight(int(ordered[-1])) + DAY_US if by_day else int(ordered[-1]) + 1
    test_end = min(horizon, log_end)
    if split.by is not None:
        return _drawn(spec, split.by, int(ordered[0]), test_end, mature, as_of)
    if split.test.last is not None:
        test_end = min(test_end, _first_instant(split.test.last) + DAY_US)
    test_start = _start(split.test, ordered, test_end, mature)
    parts = {gap: _parts(spec, gap, ordered, test_start, mature) for gap in _gaps(spec).values()}
    bounds = SplitBounds(
        tasks={task: parts[gap] for task, gap in _gaps(spec).items()},
        test_start=test_start,
        test_end=test_end,
        as_of=as_of,
        open_tasks=tuple(task.name for task in spec.tasks if task.learns_from_open_labels),
    )
    for task in bounds.tasks:
        for name in SPLITS:
            start, end = bounds.interval(name, task)
            if start >= end or np.searchsorted(ordered, start) == np.searchsorted(ordered, end):
                raise (
                    _off_the_log(spec, name, task, bounds, ordered)
                    if _is_dated(spec)
                    else _too_short(spec, ordered, as_of)
                )
    last = max(of.validation_start for of in parts.values())
    if not _refits(spec, int(np.diff(np.searchsorted(ordered, (bounds.train_start, last)))[0])):
        return bounds
    return replace(bounds, refit=True)


def _refits(spec: Spec, rows: int) -> bool:
    """Whether the model is fitted again, where that many rows train it first."""
    return rows < REFIT_ROWS if spec.training.refit is None else spec.training.refit


def _gaps(spec: Spec) -> dict[str, int]:
    """By task, how long before the test its labels are settled, microseconds."""
    if spec.split.maturity == "longest":
        return {task.name: spec.longest_maturity for task in spec.tasks}
    return {task.name: label_maturity(spec.tasks, task.name) + spec.split.ingest_lag for task in spec.tasks}


def _parts(spec: Spec, gap: int, ordered: NDArray[np.int64], test_start: int, mature: int) -> TaskBounds:
    """The parts before the test of a task whose labels settle in ``gap``."""
    split = spec.split
    settled_end = test_start - gap
    if split.calibration.fraction is None or split.validation.fraction is None:
        settled_end = _midnight(settled_end)
    calibration_start = _start(split.calibration, ordered, settled_end, mature)
    validation_start = _start(split.validation, ordered, calibration_start, mature)
    train_start = int(ordered[0])
    if split.train_days is not None:
        train_start = max(train_start, _midnight(validation_start - split.train_days * DAY_US))
    return TaskBounds(
        train_start=train_start,
        validation_start=validation_start,
        calibration_start=calibration_start,
        settled_end=settled_end,
    )


def _drawn(spec: Spec, by: str, start: int, end: int, mature: int, as_of: int) -> SplitBounds:
    """One interval for all parts: the mature rows, which are drawn at random."""
    split = spec.split
    share = 1 - sum(part.fraction or 0.0 for part in (split.test, split.calibration, split.validation))
    parts = TaskBounds(train_start=start, validation_start=start, calibration_start=start, settled_end=end)
    return SplitBounds(
        tasks={task.name: parts for task in spec.tasks},
        test_start=start,
        test_end=end,
        as_of=as_of,
        refit=_refits(spec, round(share * mature)),
        drawn=DrawnParts(
            by=by,
            seed=spec.seed,
            test=split.test.fraction or 0.0,
            calibration=split.calibration.fraction or 0.0,
            validation=split.validation.fraction or 0.0,
        ),
    )


def split_watermarks(spec: Spec, bounds: SplitBounds, events: pl.LazyFrame) -> dict[str, dict[str, int]]:
    """By split and task, up to when outcomes had surely been delivered when the split's labels are taken.

    Args:
        spec: The tasks.
        bounds: The split.
        events: Rows of the outcome_events table, of all days.
    """
    by_instant = {
        instant: task_watermarks(events, spec.tasks, instant)
        for instant in sorted({bounds.label_as_of(split) for split in bounds.splits})
    }
    return {split: by_instant[bounds.label_as_of(split)] for split in bounds.splits}


def _start(length: Slice, ordered: NDArray[np.int64], end: int, mature: int) -> int:
    """Start of the interval of that length that ends at ``end``."""
    if length.first is not None:
        return _first_instant(length.first)
    if length.days is not None:
        return end - length.days * DAY_US
    rows = round((length.fraction or 0.0) * mature)
    first = int(np.searchsorted(ordered, end)) - rows
    # Too few rows: an empty interval, which the caller reports.
    return int(ordered[first]) if first >= 0 and rows > 0 else end


def _first_instant(day: date) -> int:
    return instant_of(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _midnight(instant: int) -> int:
    return instant // DAY_US * DAY_US


def _too_short(spec: Spec, ordered: NDArray[np.int64], as_of: int) -> DatasetError:
    split, gap = spec.split, -(-spec.longest_maturity // DAY_US)
    parts = {"split.test": split.test, "split.calibration": split.calibration, "split.validation": split.validation}
    texts = [f"{name} {_length(part)}" for name, part in parts.items()]
    days = sum(part.days or 0 for part in parts.values())
    # The slowest label matures before the test ends, and again before the test begins.
    needed = days + 2 * gap + 1
    if ordered.size:
        found = f"it has {ordered.size} impressions from {iso(int(ordered[0]))} to {iso(int(ordered[-1]))}"
    else:
        found = "it has no impressions"
    return DatasetError(
        f"The log is too short to split as of {iso(as_of)}: {found}. The split needs {', '.join(texts)}, at least a day "
        f"to train on, and {format_duration(spec.longest_maturity)} twice for labels to mature: before the test and "
        f"after it, about {needed} days with impressions on each interval. Run on a longer log or a later day, or "
        f"shorten the slices in the section `split` or the windows of the tasks."
    )


def _is_dated(spec: Spec) -> bool:
    return any(part.first is not None for part in (spec.split.test, spec.split.calibration, spec.split.validation))


def _off_the_log(spec: Spec, name: str, task: str, bounds: SplitBounds, ordered: NDArray[np.int64]) -> DatasetError:
    start, end = bounds.interval(name, task)
    span = (
        f"from {iso(start)} to {iso(end)}"
        if start < end
        else f"since it would begin at {iso(start)} and end at {iso(end)}"
    )
    part = f"its part {name}" if name == "test" else f"the part {name} of {task}"
    gap, longest = (format_duration(maturity) for maturity in (_gaps(spec)[task], spec.longest_maturity))
    return DatasetError(
        f"The split has no rows in {part}, {span}. The log has {ordered.size} impressions from "
        f"{iso(int(ordered[0]))} to {iso(int(ordered[-1]))}; labels of {task} take {gap} to settle, so before the test only those "
        f"before {iso(bounds.tasks[task].settled_end)} count, and in the test those that are {longest} old as of "
        f"{iso(bounds.as_of)}. Change the days in the section `split`, or run on a later day."
    )


def _length(part: Slice) -> str:
    if part.first is not None:
        return f"days from {part.first}"
    return f"{part.days} days" if part.days is not None else f"{part.fraction:.0%} of the mature rows"
