"""What a skew is likely to be: hypotheses, each of which is tested on the rows that differ.

A hypothesis says what would have been served if it were true. The one that explains the differing rows names the skew; of
several, the one that stands first, since it says more. Where none does, the skew is `unexplained`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

EXPLAINED = 0.9
"""Share of the differing rows that a hypothesis must explain."""

LEAST_ROWS = 5
"""With fewer differing rows nothing is said of the kind."""

MOST_ROWS = 4000
"""Of more differing rows, so many are looked at, spread evenly."""

UNEXPLAINED = "unexplained"
MISSING = "missing"
ZERO_FOR_MISSING = "zero for missing"
DEFAULT_FOR_MISSING = "default for missing"
CONSTANT = "constant"
DEFAULT = "default"
STALE = "stale snapshot"
TIME = "shifted hour"
UNIT = "unit"
OFFSET = "offset"
TRANSFORM = "transform left out"
ROUNDED = "rounded"
OTHER_FEATURE = "another feature"
OTHER_CANDIDATE = "another candidate"
VOCABULARY = "vocabulary"
ORDER = "order of the list"

MEANINGS: Mapping[str, str] = {
    MISSING: "no value is served where there is one",
    ZERO_FOR_MISSING: "0 is served where the value is missing",
    DEFAULT_FOR_MISSING: "a constant is served where the value is missing",
    CONSTANT: "one value is served to all",
    DEFAULT: "a constant is served in place of some values",
    STALE: "the value of an earlier day is served",
    TIME: "the local time is another one: time zone or clock",
    UNIT: "the value is multiplied by a constant",
    OFFSET: "a constant is added to the value",
    TRANSFORM: "the value is transformed once too often, or not at all",
    ROUNDED: "the value has lost digits",
    ORDER: "what a list or a vector holds stands in other places",
    OTHER_FEATURE: "the value of another feature is served",
    OTHER_CANDIDATE: "the value of another candidate of the request is served",
    VOCABULARY: "values have other rows than in the model's vocabulary, or none",
    UNEXPLAINED: "no known kind explains the rows",
}
"""What each kind means, for people."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The likely kind of a skew."""

    name: str
    detail: str = ""
    """By how much, or since when: such as `×100`, `1 day old`."""
    explained: float = 0.0
    """Share of the differing rows that it explains."""

    @property
    def text(self) -> str:
        """Name and detail."""
        return f"{self.name} ({self.detail})" if self.detail else self.name


class Differing(Protocol):
    """Rows of which some differ."""

    @property
    def differs(self) -> Mask:
        """[K]"""


Evidence = TypeVar("Evidence", bound=Differing)


def looked_at(differs: Mask) -> NDArray[np.intp]:
    """Where rows differ, at most :data:`MOST_ROWS` of them, spread evenly."""
    rows = np.flatnonzero(differs)
    return rows if len(rows) <= MOST_ROWS else rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(np.intp)]


def likely_kind(evidence: Evidence, hypotheses: Sequence[Callable[[Evidence], Kind | None]]) -> Kind:
    """The kind of the first hypothesis that explains the differing rows."""
    if evidence.differs.sum() < LEAST_ROWS:
        return Kind(UNEXPLAINED, "too few rows")
    for hypothesis in hypotheses:
        found = hypothesis(evidence)
        if found is not None and found.explained >= EXPLAINED:
            return found
    return Kind(UNEXPLAINED)


def share_of_other_candidates(
    served: NDArray[np.generic], expected: NDArray[np.generic], differs: Mask, requests: NDArray[np.int64]
) -> float:
    """Share of the differing rows that got what belongs to another row of their request."""
    rows = np.flatnonzero(differs)[:MOST_ROWS]
    wanted = set(requests[rows].tolist())
    belongs: dict[int, list[int]] = {}
    for at, request in enumerate(requests.tolist()):
        if request in wanted:
            belongs.setdefault(request, []).append(at)
    hits = 0
    for row in rows:
        others = [at for at in belongs[int(requests[row])] if at != row]
        hits += bool(len(others) and np.any(expected[others] == served[row]))
    return hits / max(1, len(rows))


def most_frequent(values: NDArray[Any]) -> tuple[Any, int]:
    """The value that is there most often, NaN left out, and how often; NaN and 0 where there is none."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), 0
    found, counts = np.unique(known, return_counts=True)
    best = int(np.argmax(counts))
    return found[best].item(), int(counts[best])


def is_round(factor: float) -> bool:
    """Whether it is a factor that separates units: a power of ten, or seconds, minutes, hours, days."""
    sizes = [10.0**n for n in range(1, 10)] + [60.0, 3600.0, 24.0, 86400.0, 7.0, 1024.0]
    return any(abs(factor / size - 1) < 1e-3 or abs(factor * size - 1) < 1e-3 for size in sizes)
