"""The parts of a dataset: which rows, by time or drawn at random, each task trains, validates, calibrates and tests on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Self

import polars as pl
import polars_hash  # noqa: F401  (registers the expression namespace `nchash`)

from ctr_pipeline.datasets.packed import REFIT, SPLITS

LEARNT = ("train", REFIT)
"""Parts that teach; the second is there where a model is fitted again once its epochs are chosen."""

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
        # With a prefix of its own, so that no other hash of the same text decides on the part.
        hashed: pl.Expr = pl.format("split:{}", key).nchash.xxhash64(seed=self.seed)  # type: ignore[attr-defined]
        place = hashed.cast(pl.Float64) / 2.0**64
        after_test, after_calibration = self.test, self.test + self.calibration
        bounds = {
            "test": (0.0, after_test),
            "calibration": (after_test, after_calibration),
            "validation": (after_calibration, after_calibration + self.validation),
            "train": (after_calibration + self.validation, 2.0),
            REFIT: (after_calibration, 2.0),
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
    refit: bool = False
    """Whether there is a part ``refit`` too: training and validation, learnt together once the epochs are chosen."""
    drawn: DrawnParts | None = None
    """How rows are drawn at random; then all parts span the same time, and are labelled as of ``as_of``."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts of the dataset: those of every dataset, and ``refit`` where a model is fitted again."""
        return (*SPLITS, REFIT) if self.refit else SPLITS

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
        for split in self.splits:
            own = [self.interval(split, task) for task in self.tasks]
            if split in LEARNT:
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
            REFIT: (parts.train_start, parts.calibration_start),
        }[split]

    def label_as_of(self, split: str) -> int:
        """Instant as of which the labels of ``split`` are taken."""
        return self.as_of if split == "test" or self.drawn is not None else self.test_start

    def rows_of(self, split: str) -> pl.Expr:
        """Whether a row of the table `impressions` belongs to ``split``, for one task at least."""
        rows = [self.task_rows_of(split, task) for task in self._differing]
        if split in LEARNT:
            rows += [self.open_rows_of(task) & ~self._held_out(split) for task in self.open_tasks]
        return pl.any_horizontal(rows)

    def task_rows_of(self, split: str, task: str) -> pl.Expr:
        """Whether a row of the table `impressions` belongs to ``split`` of ``task``.

        A row that validates or calibrates one task trains none: what is known of it for another, such as its click, would
        make the purchase that it validates look better predicted than it is. A row that validates may be learnt again.
        """
        start, end = self.interval(split, task)
        within = pl.col("ts").is_between(start, end, closed="left")
        if self.drawn is not None:
            return within & self.drawn.is_in(split)
        return within & ~self._held_out(split) if split in LEARNT and self.has_rows_held_out else within

    @property
    def has_rows_held_out(self) -> bool:
        """Whether some task validates or is calibrated on rows that lie among the training rows of another."""
        return self.drawn is None and len(self._differing) > 1

    def _held_out(self, split: str) -> pl.Expr:
        """Whether a row validates or calibrates some task, or for the part ``refit`` calibrates one."""
        held_out = []
        for task in self._differing:
            _, learnt = self.interval(split, task)
            held_out.append(pl.col("ts").is_between(learnt, self.tasks[task].settled_end, closed="left"))
        return pl.any_horizontal(held_out)

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
            **({"refit": True} if self.refit else {}),
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


def instant_of(moment: datetime) -> int:
    """A moment in microseconds since 1970-01-01 UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def iso(instant: int) -> str:
    """Microseconds since 1970-01-01 UTC as ISO 8601 text."""
    return (_EPOCH + timedelta(microseconds=instant)).isoformat().replace("+00:00", "Z")
