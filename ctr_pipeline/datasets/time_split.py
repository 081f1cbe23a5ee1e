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
from ctr_pipeline.labels import task_watermarks
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
class SplitBounds:
    """Instants in microseconds since 1970-01-01 UTC, ascending; every interval includes its start, not its end.

    train | validation | calibration | maturity gap | test. What is before the gap is labelled as of the first instant
    of the test, as on the day of a deployment; the test as of ``as_of``.
    """

    train_start: int
    validation_start: int
    calibration_start: int
    train_end: int
    """End of the calibration interval: at least the longest maturity before ``test_start``."""
    test_start: int
    test_end: int
    as_of: int
    """Instant as of which the test is labelled."""
    drawn: DrawnParts | None = None
    """How rows are drawn at random; then all parts span the same time, and are labelled as of ``as_of``."""

    @property
    def intervals(self) -> Mapping[str, tuple[int, int]]:
        """Start and end of each split."""
        if self.drawn is not None:
            return MappingProxyType(dict.fromkeys(SPLITS, (self.train_start, self.test_end)))
        return MappingProxyType(
            {
                "train": (self.train_start, self.validation_start),
                "validation": (self.validation_start, self.calibration_start),
                "calibration": (self.calibration_start, self.train_end),
                "test": (self.test_start, self.test_end),
            }
        )

    def label_as_of(self, split: str) -> int:
        """Instant as of which the labels of ``split`` are taken."""
        return self.as_of if split == "test" or self.drawn is not None else self.test_start

    def rows_of(self, split: str) -> pl.Expr:
        """Whether a row of the table `impressions` belongs to ``split``."""
        start, end = self.intervals[split]
        within = pl.col("ts").is_between(start, end, closed="left")
        return within if self.drawn is None else within & self.drawn.is_in(split)

    def rows_before_test(self) -> pl.Expr:
        """Whether a row of the table `impressions` may be looked at before the test is."""
        within = pl.col("ts").is_between(self.train_start, self.train_end, closed="left")
        return within if self.drawn is None else within & ~self.drawn.is_in("test")

    def instants(self) -> dict[str, int]:
        """The bounds by name."""
        return {name: int(getattr(self, name)) for name in self.__slots__ if name != "drawn"}

    def to_json(self) -> dict[str, Any]:
        """The bounds as a dictionary; read back by :meth:`from_json`."""
        return self.instants() | ({} if self.drawn is None else {"drawn": asdict(self.drawn)})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The bounds in a dictionary made by :meth:`to_json`."""
        drawn = content.get("drawn")
        return cls(**{**content, "drawn": None if drawn is None else DrawnParts(**drawn)})

    def describe(self) -> dict[str, str]:
        """The bounds as ISO 8601 text, UTC."""
        return {name: iso(instant) for name, instant in self.instants().items()}


def split_bounds(spec: Spec, ts: NDArray[np.int64], as_of: int) -> SplitBounds:
    """Bounds of the parts of the dataset of a run as of ``as_of``.

    With W the longest maturity, the test is the latest interval whose rows are all W old at ``as_of``. Train, validation
    and calibration are the rows that are W old at the first instant of the test. Slices in days begin and end at
    00:00 UTC. Slices in fractions are shares of the mature rows, to the row (rows with one and the same time stay
    together). Parts that are drawn at random are shares of all rows that are W old at ``as_of``.

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
    train_end = test_start - maturity
    if split.calibration.fraction is None or split.validation.fraction is None:
        train_end = _midnight(train_end)
    calibration_start = _start(split.calibration, ordered, train_end, mature)
    validation_start = _start(split.validation, ordered, calibration_start, mature)
    train_start = int(ordered[0])
    if split.train_days is not None:
        train_start = max(train_start, _midnight(validation_start - split.train_days * DAY_US))
    bounds = SplitBounds(
        train_start=train_start,
        validation_start=validation_start,
        calibration_start=calibration_start,
        train_end=train_end,
        test_start=test_start,
        test_end=test_end,
        as_of=as_of,
    )
    for name, (start, end) in bounds.intervals.items():
        if start >= end or np.searchsorted(ordered, start) == np.searchsorted(ordered, end):
            raise _off_the_log(spec, name, bounds, ordered) if _is_dated(spec) else _too_short(spec, ordered, as_of)
    return bounds


def _drawn(spec: Spec, by: str, start: int, end: int, as_of: int) -> SplitBounds:
    """One interval for all parts: the mature rows, which are drawn at random."""
    split = spec.split
    return SplitBounds(
        train_start=start,
        validation_start=start,
        calibration_start=start,
        train_end=end,
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


def _off_the_log(spec: Spec, name: str, bounds: SplitBounds, ordered: NDArray[np.int64]) -> DatasetError:
    start, end = bounds.intervals[name]
    span = (
        f"from {iso(start)} to {iso(end)}"
        if start < end
        else f"since it would begin at {iso(start)} and end at {iso(end)}"
    )
    gap = format_duration(spec.longest_maturity)
    return DatasetError(
        f"The split has no rows in its part {name}, {span}. The log has {ordered.size} impressions from "
        f"{iso(int(ordered[0]))} to {iso(int(ordered[-1]))}; labels take {gap} to settle, so before the test only those before "
        f"{iso(bounds.train_end)} count, and in the test those that are so old as of {iso(bounds.as_of)}. Change the days "
        "in the section `split`, or run on a later day."
    )


def _length(part: Slice) -> str:
    if part.first is not None:
        return f"days from {part.first}"
    return f"{part.days} days" if part.days is not None else f"{part.fraction:.0%} of the mature rows"
