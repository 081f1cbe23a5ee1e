"""The columns that a layout consists of."""

from dataclasses import dataclass
from typing import Literal

from ctr_pipeline.spec.time_parts import TimePart

Group = Literal["dense", "categorical", "contextual", "history"]
"""The section of the spec that declares a feature."""

MISSING_ROW = 0
"""Embedding row of a missing value."""

UNKNOWN_ROW = 1
"""Embedding row of a value that the vocabulary does not hold: rare in training, or new since."""

FIRST_VOCABULARY_ROW = 2
"""Embedding row of the most frequent value."""

PADDING = -1
"""In the place of an embedding row: a list has ended."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a number reaches the model beside its standardised value, or instead of it."""

    kind: str
    """Kind of the spec's section."""
    edges: tuple[float, ...] = ()
    """Edges of the bins, ascending, on the raw scale: values that occur in the training rows."""
    means: tuple[float, ...] = ()
    """Mean of each bin's input over the training rows with a value. It is subtracted, so that zeros say nothing."""
    period: float | None = None
    """Set for an angle: after how much, on the raw scale, it is the same."""


@dataclass(frozen=True, slots=True)
class NumericColumn:
    """One number: raw value → ``fill`` where missing → ``transform`` → (x - mean) / std, and its ``encoding``."""

    name: str
    """Name of the feature; of a vector with the place of the number in it, as ``name[0]``."""
    group: Group
    """Section of the spec that declares it: dense, contextual or history."""
    transform: Literal["none", "signed_log1p"]
    """Applied after the fill; signed_log1p is sign(x) · log(1 + abs(x))."""
    fill: float
    """Value of a missing number, on the raw scale."""
    indicator: bool
    """Whether the model also gets a 0/1 input for whether the value was missing."""
    mean: float
    """Mean over the training rows, after fill and transform."""
    std: float
    """Population standard deviation over the training rows, after fill and transform; 1 for a constant."""
    encoding: Encoding | None = None
    """None for the standardised value alone."""

    @property
    def feature(self) -> str:
        """Name of the feature: what a request calls it."""
        return self.name.partition("[")[0]

    @property
    def is_element(self) -> bool:
        """Whether it is one of the numbers of a vector."""
        return self.name.endswith("]")


@dataclass(frozen=True, slots=True)
class Pooled:
    """How the embeddings of a list become one."""

    length: int
    """Places of the list in the id array: its rows, then :data:`PADDING`."""
    pooling: Literal["mean", "sum", "max"]
    """Over the rows that are there; zeros where there is none."""
    keep: Literal["last", "first"]
    """Which values of a longer list are there."""


@dataclass(frozen=True, slots=True)
class FromTime:
    """How a category is made of the time of a request."""

    part: TimePart
    """Part of the local date and time."""
    zone: str
    """IANA zone of that local time."""


@dataclass(frozen=True, slots=True)
class Frequency:
    """How the frequency of a category becomes a number: (log(rank) - mean) / std, and 0 where the value is missing.

    The most frequent value has rank 1. An unknown or rare one has the rank after the last of the vocabulary.
    """

    mean: float
    """Mean of log(rank) over the training rows with a value."""
    std: float
    """Population standard deviation of log(rank) over the training rows with a value; 1 for a constant."""


@dataclass(frozen=True, slots=True)
class ParentMean:
    """What the embedding of a new value of a category begins as: the mean of those that share its parent."""

    parent: str
    """Name of the id column that the parent is in."""
    evidence: float
    """Training rows with which a value's own embedding counts as much as the mean."""


@dataclass(frozen=True, slots=True)
class IdColumn:
    """One embedded category, or a list of them."""

    name: str
    """Name of the feature."""
    group: Group
    """Section of the spec that declares it: categorical, contextual or history."""
    rows: int
    """Height of the embedding table: row 0 = missing, row 1 = unknown or rare, from row 2 the vocabulary."""
    dim: int
    """Width of the embedding."""
    pooled: Pooled | None = None
    """Set for a list. A missing list is the row of a missing value; an empty one has no row."""
    from_time: FromTime | None = None
    """Set for a category that a request need not hold where it holds its time."""
    frequency: Frequency | None = None
    """Set for a category whose frequency is an input too."""
    cold_start: ParentMean | None = None
    """Set for a category whose new values have a parent to begin from."""
    table: str | None = None
    """Another column whose vocabulary and embeddings it shares: what is listed is what that one names."""

    @property
    def places(self) -> int:
        """Columns of the id array that it takes."""
        return 1 if self.pooled is None else self.pooled.length

    @property
    def vocabulary(self) -> str:
        """The column whose vocabulary says what its rows mean."""
        return self.table or self.name

    @property
    def empty_when_missing(self) -> bool:
        """Whether a missing list has no row: one that is made of the past has nothing in it then."""
        return self.pooled is not None and self.group == "history"


@dataclass(frozen=True, slots=True)
class EventList:
    """The last events of a key: columns that belong together place by place, the latest first, for a module to read."""

    name: str
    """Name of the feature, and of the id column with the items."""
    item: str
    """Id column of the same things at the impression itself, whose embeddings the items share."""
    event: str | None
    """Id column with the kinds of the events; None where all are of one kind."""
    age: str
    """Feature of the numeric array with the ages in seconds; NaN after the end of the list."""
    length: int
    """Places."""
