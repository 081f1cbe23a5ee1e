"""Where the parts of a dataset begin and end: a simulated deployment in time order, or shares drawn at random."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import polars as pl
import polars_hash  # noqa: F401  (registers the expression namespace `nchash`)
from numpy.typing import NDArray

from ctr_pipeline.datasets.packed import SPLITS, DatasetError
from ctr_pipeline.labels import label_maturity, task_watermarks
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US, format_duration
from ctr_pipeline.spec.split import Slice

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_KEYS = {"row": "impression_id", "user": "user", "session": "session"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnParts:
    """Parts drawn at random by a hash of a key and the seed: the same key is always in the same part."""

    by: str
    """``row``, ``user``, ``session``, or the column of the log whose hash is stored as ``split_key``."""
    seed: int
    test: float
    """Share of the keys in the test."""
    calibration: float
    validation: float

    def is_in(self, split: str) -> pl.Expr:
        """Whether a row of the table `impressions` belongs to ``split``; a row without a key is one of its own."""
        key = pl.coalesce(pl.col(_KEYS.get(self.by, "split_key")).cast(pl.String), pl.col("impression_id"))
        # With a prefix of its own, so that the order of rows, which is a hash of the id, depends on it in no way.
        hashed: pl.Expr = pl.format("split:{}", key).nchash.xxhash64(seed=self.seed)  # type: ignore[attr-defined]
        place = hashed.cast(pl.Float64) / 2.0**64
        after_test, after_calibration = self.test, self.test + self.calibration
        bounds = {
            "test": (0.0, after_test),
            "calibration": (after_test, after_calibration),
            "validation": (after_calibration, after_calibration + self.validation),
            "train": (after_calibration + self.validation, 2.0),
        }
        return place.is_between(*bounds[split], closed="left")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskBounds:
    """Where the parts of one task that lie before the test begin and end: train | validation | calibration | gap.

    Instants in microseconds since 1970-01-01 UTC, ascending. A pair of a row and the task lies in one part at most, by
    the time of the row alone, whatever its outcome.
    """

    train_start: int
    validation_start: int
    calibration_start: int
    settled_end: int
    """End of the calibration: the label of every earlier row is settled at the first instant of the test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitBounds:
    """Instants in microseconds since 1970-01-01 UTC; every interval includes its start, not its end.

    Each task has its own train | validation | calibration, as late as its label is settled; the test is that of all
    tasks. What is before the test is labelled as of its first instant, as on the day of a deployment; the test as of
    ``as_of``.
    """

    tasks: Mapping[str, TaskBounds]
    """By task, its parts before the test."""
    test_start: int
    test_end: int
    as_of: int
    """Instant as of which the test is labelled."""
    open_tasks: tuple[str, ...] = ()
    """Tasks whose open labels teach too: those of the rows between their calibration and the test."""
    drawn: DrawnParts | None = None
    """How rows are drawn at random; then all parts span the same time, and are labelled as of ``as_of``."""

    @property
    def train_start(self) -> int:
        """Time of the first row that any task learns from."""
        return min(parts.train_start for parts in self.tasks.values())

    @property
    def settled_end(self) -> int:
        """End of the rows that any task may look at before the test."""
        return max(parts.settled_end for parts in self.tasks.values())

    @property
    def intervals(self) -> Mapping[str, tuple[int, int]]:
        """For each split the shortest interval that holds its rows of all tasks."""
        found = {}
        for split in SPLITS:
            own = [self.interval(split, task) for task in self.tasks]
            if split == "train":
                own += [(self.tasks[task].settled_end, self.test_start) for task in self.open_tasks]
            found[split] = (min(start for start, _ in own), max(end for _, end in own))
        return MappingProxyType(found)

    def interval(self, split: str, task: str) -> tuple[int, int]:
        """Start and end of the part ``split`` of ``task``."""
        if self.drawn is not None:
            return self.train_start, self.test_end
        parts = self.tasks[task]
        return {
            "train": (parts.train_start, parts.validation_start),
            "validation": (parts.validation_start, parts.calibration_start),
            "calibration": (parts.calibration_start, parts.settled_end),
            "test": (self.test_start, self.test_end),
        }[split]

    def label_as_of(self, split: str) -> int:
        """Instant as of which the labels of ``split`` are taken."""
        return self.as_of if split == "test" or self.drawn is not None else self.test_start

    def rows_of(self, split: str) -> pl.Expr:
        """Whether a row of the table `impressions` belongs to ``split``, for one task at least."""
        rows = [self.task_rows_of(split, task) for task in self._differing]
        if split == "train":
            rows += [self.open_rows_of(task) & ~self._held_out() for task in self.open_tasks]
        return pl.any_horizontal(rows)

    def task_rows_of(self, split: str, task: str) -> pl.Expr:
        """Whether a row of the table `impressions` belongs to ``split`` of ``task``.

        A row that validates or calibrates one task trains none: what is known of it for another, such as its click, would
        make the purchase that it validates look better predicted than it is.
        """
        start, end = self.interval(split, task)
        within = pl.col("ts").is_between(start, end, closed="left")
        if self.drawn is not None:
            return within & self.drawn.is_in(split)
        return within & ~self._held_out() if split == "train" and self.has_rows_held_out else within

    @property
    def has_rows_held_out(self) -> bool:
        """Whether some task validates or is calibrated on rows that lie among the training rows of another."""
        return self.drawn is None and len(self._differing) > 1

    def _held_out(self) -> pl.Expr:
        """Whether a row validates or calibrates some task."""
        parts = [self.tasks[task] for task in self._differing]
        return pl.any_horizontal(
            pl.col("ts").is_between(of.validation_start, of.settled_end, closed="left") for of in parts
        )

    def open_rows_of(self, task: str) -> pl.Expr:
        """Whether the label of ``task`` of a row of the table `impressions` is open at the first instant of the test."""
        return pl.col("ts").is_between(self.tasks[task].settled_end, self.test_start, closed="left")

    def rows_before_test(self) -> pl.Expr:
        """Whether a row of the table `impressions` may be looked at before the test is."""
        within = pl.col("ts").is_between(self.train_start, self.settled_end, closed="left")
        return within if self.drawn is None else within & ~self.drawn.is_in("test")

    def settled(self, task: str) -> pl.Expr:
        """Whether the label of ``task`` of such a row counts: those of later rows are known for early outcomes only."""
        return pl.col("ts") < self.tasks[task].settled_end

    def to_json(self) -> dict[str, Any]:
        """The bounds as a dictionary; read back by :meth:`from_json`."""
        return {
            "tasks": {task: asdict(parts) for task, parts in self.tasks.items()},
            **self._of_all_tasks(),
            **({"open_tasks": list(self.open_tasks)} if self.open_tasks else {}),
            **({} if self.drawn is None else {"drawn": asdict(self.drawn)}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The bounds in a dictionary made by :meth:`to_json`."""
        drawn = content.get("drawn")
        parts = {task: TaskBounds(**of) for task, of in content["tasks"].items()}
        open_tasks = tuple(content.get("open_tasks", ()))
        return cls(
            **{
                **content,
                "tasks": parts,
                "open_tasks": open_tasks,
                "drawn": None if drawn is None else DrawnParts(**drawn),
            }
        )

    def describe(self) -> dict[str, Any]:
        """The bounds as :meth:`to_json` has them, the instants as ISO 8601 text, UTC."""
        parts = {task: {name: iso(at) for name, at in asdict(of).items()} for task, of in self.tasks.items()}
        return {"tasks": parts, **{name: iso(instant) for name, instant in self._of_all_tasks().items()}}

    @property
    def _differing(self) -> list[str]:
        """A task for each different set of parts: tasks that settle together are looked at once."""
        found: dict[TaskBounds, str] = {}
        for task, parts in self.tasks.items():
            found.setdefault(parts, task)
        return list(found.values())

    def _of_all_tasks(self) -> dict[str, int]:
        return {"test_start": self.test_start, "test_end": self.test_end, "as_of": self.as_of}


def split_bounds(spec: Spec, ts: NDArray[np.int64], as_of: int) -> SplitBounds:
    """Bounds of the parts of the dataset of a run as of ``as_of``.

    With W the longest maturity, the test is the latest interval whose rows are all W old at ``as_of``. Train, validation
    and calibration of a task are the rows whose label of that task is settled at the first instant of the test: those
    that are as old as its own maturity, or W with ``maturity: longest``. Slices in days begin and end at 00:00 UTC.
    Slices in fractions are shares of the rows that are W old at ``as_of``, to the row (rows with one and the same time
    stay together). Parts that are drawn at random are shares of those rows.

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
        return _drawn(spec, split.by, int(ordered[0]), test_end, as_of)
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
    return bounds


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


def _drawn(spec: Spec, by: str, start: int, end: int, as_of: int) -> SplitBounds:
    """One interval for all parts: the mature rows, which are drawn at random."""
    split = spec.split
    parts = TaskBounds(train_start=start, validation_start=start, calibration_start=start, settled_end=end)
    return SplitBounds(
        tasks={task.name: parts for task in spec.tasks},
        test_start=start,
        test_end=end,
        as_of=as_of,
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
        for instant in sorted({bounds.label_as_of(split) for split in SPLITS})
    }
    return {split: by_instant[bounds.label_as_of(split)] for split in SPLITS}


def iso(instant: int) -> str:
    """Microseconds since 1970-01-01 UTC as ISO 8601 text."""
    return (_EPOCH + timedelta(microseconds=instant)).isoformat().replace("+00:00", "Z")


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
    return (datetime(day.year, day.month, day.day, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


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
