"""Where the parts of a dataset begin and end: a simulated deployment, in time order."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.datasets.packed import SPLITS, DatasetError
from ctr_pipeline.labels import task_watermarks
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US, format_duration
from ctr_pipeline.spec.split import Slice

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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

    @property
    def intervals(self) -> Mapping[str, tuple[int, int]]:
        """Start and end of each split."""
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
        return self.as_of if split == "test" else self.test_start

    def to_json(self) -> dict[str, int]:
        """The bounds as a dictionary; read back by :meth:`from_json`."""
        return {name: int(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_json(cls, content: Mapping[str, int]) -> Self:
        """The bounds in a dictionary made by :meth:`to_json`."""
        return cls(**content)

    def describe(self) -> dict[str, str]:
        """The bounds as ISO 8601 text, UTC."""
        return {name: iso(instant) for name, instant in self.to_json().items()}


def split_bounds(spec: Spec, ts: NDArray[np.int64], as_of: int) -> SplitBounds:
    """Bounds of the parts of the dataset of a run as of ``as_of``.

    With W the longest maturity, the test is the latest interval whose rows are all W old at ``as_of``. Train, validation
    and calibration are the rows that are W old at the first instant of the test. Slices in days begin and end at
    00:00 UTC. Slices in fractions are shares of the mature rows, to the row (rows with one and the same time stay
    together).

    Args:
        spec: Slices, tasks and ingest lag.
        ts: Times of all impressions, microseconds, in any order.
        as_of: End of the run's last day, microseconds.

    Raises:
        DatasetError: the log is too short for the slices; the message says how long it must be.
    """
    split, maturity = spec.split, spec.longest_maturity
    ordered = np.sort(np.asarray(ts, dtype=np.int64))
    # Mature means ts + W <= as_of; ends are exclusive.
    horizon = as_of - maturity + 1
    if split.test.days is not None:
        horizon = _midnight(horizon)
    mature = int(np.searchsorted(ordered, horizon))
    if mature == 0:
        raise _too_short(spec, ordered, as_of)
    log_end = _midnight(int(ordered[-1])) + DAY_US if split.test.days is not None else int(ordered[-1]) + 1
    test_end = min(horizon, log_end)
    test_start = _start(split.test, ordered, test_end, mature)
    train_end = test_start - maturity
    if split.calibration.days is not None or split.validation.days is not None:
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
    for start, end in bounds.intervals.values():
        if start >= end or np.searchsorted(ordered, start) == np.searchsorted(ordered, end):
            raise _too_short(spec, ordered, as_of)
    return bounds


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
    if length.days is not None:
        return end - length.days * DAY_US
    rows = round((length.fraction or 0.0) * mature)
    first = int(np.searchsorted(ordered, end)) - rows
    # Too few rows: an empty interval, which the caller reports.
    return int(ordered[first]) if first >= 0 and rows > 0 else end


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


def _length(part: Slice) -> str:
    return f"{part.days} days" if part.days is not None else f"{part.fraction:.0%} of the mature rows"
