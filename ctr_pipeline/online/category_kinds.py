"""The likely kind of a skew of embedding rows; see :mod:`ctr_pipeline.online.skew_kinds`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features import FIRST_VOCABULARY_ROW, MISSING_ROW, PADDING, UNKNOWN_ROW
from ctr_pipeline.online.skew_kinds import (
    CONSTANT,
    DEFAULT,
    DEFAULT_FOR_MISSING,
    EXPLAINED,
    LEAST_ROWS,
    MISSING,
    ORDER,
    OTHER_CANDIDATE,
    STALE,
    TIME,
    VOCABULARY,
    Kind,
    Mask,
    likely_kind,
    looked_at,
    most_frequent,
    share_of_other_candidates,
)
from ctr_pipeline.spec.fields import MICROSECONDS

Rows = NDArray[np.int64]

CUT = "list cut"

PERIODS = {24: "h", 7: "days", 168: "h of the week"}
"""After how many values a part of the time begins again, and what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryEvidence:
    """The embedding rows of one category or list. K rows were compared, of which some differ."""

    served: Rows
    """[K, places]"""
    expected: Rows
    """[K, places] as recomputed."""
    differs: Mask
    """[K]"""
    requests: NDArray[np.int64]
    """[K] the request of each row."""
    ts: NDArray[np.int64]
    """[K] microseconds."""
    keys: Mapping[int, str] = field(default_factory=dict)
    """The value of each embedding row of the model's vocabulary."""
    vocabularies: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of other models, the rows of the values."""
    earlier: Callable[[int], Rows] | None = None
    """[K, places] from a snapshot so many days older; None where the feature has no history."""
    shifted: Callable[[int], Rows] | None = None
    """[K, 1] with the time so many minutes later; None where the feature is not made of the time."""

    def sample(self) -> "tuple[Rows, Rows, NDArray[np.intp]]":
        """Served and expected rows that differ, at most :data:`MOST_ROWS`, and where they are."""
        rows = looked_at(self.differs)
        return self.served[rows], self.expected[rows], rows


def kind_of_category(evidence: CategoryEvidence) -> Kind:
    """The likely kind of a skew of a category or a list."""
    return likely_kind(evidence, _HYPOTHESES)


def _equal(served: Rows, expected: Rows) -> float:
    return float((served == expected).all(axis=1).mean())


def _nothing(rows: Rows) -> Mask:
    """Where a value, or the only one of a list, is missing, or a list has none."""
    found: Mask = np.isin(rows[:, 0], (MISSING_ROW, PADDING)) & (rows[:, 1:] == PADDING).all(axis=1)
    return found


def _stale(evidence: CategoryEvidence) -> Kind | None:
    if evidence.earlier is None:
        return None
    served, _, rows = evidence.sample()
    best: Kind | None = None
    for days in range(1, 15):
        share = _equal(served, evidence.earlier(days)[rows])
        if best is None or share > best.explained + 1e-9:
            best = Kind(STALE, f"{days} day{'s' if days > 1 else ''} old", share)
    return best


def _missing(evidence: CategoryEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    share = float((_nothing(served) & ~_nothing(expected)).mean())
    every = bool(_nothing(evidence.served[~_nothing(evidence.expected)]).mean() >= EXPLAINED)
    stale = None if every or share < EXPLAINED else _stale(evidence)
    return stale if stale is not None and stale.explained >= EXPLAINED else Kind(MISSING, "", share)


def _unknown(evidence: CategoryEvidence) -> Kind | None:
    """Values that the vocabulary has are served as unknown: under another key of the hashes, or another spelling."""
    served, expected, _ = evidence.sample()
    places = served != expected
    lost = (served == UNKNOWN_ROW) & (expected != PADDING)
    return Kind(VOCABULARY, "known values are unknown", float((lost | ~places).all(axis=1).mean()))


def _shifted_time(evidence: CategoryEvidence) -> Kind | None:
    served, expected, rows = evidence.sample()
    if evidence.shifted is not None:
        best: Kind | None = None
        for minutes in sorted((m for m in range(-14 * 60, 14 * 60 + 1, 30) if m), key=abs):
            share = _equal(served, evidence.shifted(minutes)[rows])
            if best is None or share > best.explained + 1e-9:
                best = Kind(TIME, f"{minutes / 60:+g} h", share)
        return best
    if served.shape[1] > 1:
        return None
    return _turned(evidence, served[:, 0], expected[:, 0], evidence.ts[rows])


def _turned(evidence: CategoryEvidence, served: Rows, expected: Rows, ts: NDArray[np.int64]) -> Kind | None:
    """Whole numbers that differ by a constant, beginning again after a period."""
    numbers = {row: int(key) for row, key in evidence.keys.items() if key.isdigit() and int(key) <= 168}
    if len(numbers) < 0.9 * len(evidence.keys) or not numbers:
        return None
    highest = max(numbers.values())
    known = np.array([s in numbers and e in numbers for s, e in zip(served.tolist(), expected.tolist(), strict=True)])
    pairs = [(numbers[s], numbers[e]) for s, e in zip(served[known].tolist(), expected[known].tolist(), strict=True)]
    if len(pairs) < LEAST_ROWS or highest < 6:
        return None
    period = next(p for p in sorted(PERIODS) if highest <= p)
    # Both 0 to 23 and 1 to 24 are in use.
    first, second = np.array(pairs).T
    turned = np.mod(first - second, period)
    values, counts = np.unique(turned, return_counts=True)
    best = int(np.argmax(counts))
    # Of a code of few values one may be served in place of another: a time follows the clock.
    if len(np.unique(second)) < 3 and not _follows_clock(second, ts[known], period):
        return None
    shift = int(values[best]) - period * (values[best] > period / 2)
    return Kind(TIME, f"{shift:+d} {PERIODS[period]}", float(counts[best] / len(served)))


def _follows_clock(values: Rows, ts: NDArray[np.int64], period: int) -> bool:
    """Whether the values are the hour, the day of the week or the hour of the week of ``ts``, in whatever zone."""
    hours = ts // MICROSECONDS["h"]
    # 1970-01-01 was a Thursday.
    parts = {24: hours, 7: hours // 24 + 3, 168: hours + 72}
    _, counts = np.unique(np.mod(values - parts[period], period), return_counts=True)
    return bool(counts.max() >= EXPLAINED * len(values))


def _other_vocabulary(evidence: CategoryEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    best: Kind | None = None
    for name, rows in evidence.vocabularies.items():
        lookup = {row: rows.get(key, UNKNOWN_ROW) for row, key in evidence.keys.items()}
        there = np.vectorize(lambda row, of=lookup: of.get(row, row), otypes=[np.int64])(expected)
        share = _equal(served, there)
        if best is None or share > best.explained:
            best = Kind(VOCABULARY, f"of {name}", share)
    return best


def _mapped(evidence: CategoryEvidence) -> Kind | None:
    """Each value is served as the row of one other value: a consistent renaming."""
    served, expected, _ = evidence.sample()
    places = (served != expected) & (served != PADDING) & (expected != PADDING)
    pairs = np.stack([expected[places], served[places]], axis=1)
    if not len(pairs):
        return None
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.lexsort((-counts, distinct[:, 0]))
    distinct, counts = distinct[order], counts[order]
    first = np.concatenate([[True], distinct[1:, 0] != distinct[:-1, 0]])
    starts = np.flatnonzero(first)
    totals = np.add.reduceat(counts, starts)
    repeated = totals >= 2
    known = distinct[starts, 0] >= FIRST_VOCABULARY_ROW
    # Of one hour or day there may be one value.
    if (repeated & known).sum() < (2 if evidence.shifted is None else 1):
        return None
    use = repeated & known
    consistent = counts[starts][use].sum() / totals[use].sum()
    # Several values under one row are a default, not another vocabulary.
    targets = len(np.unique(distinct[starts][use][:, 1]))
    spread = targets >= min(use.sum(), max(2, 0.75 * use.sum()))
    covered = totals[use].sum() / totals.sum()
    explained = float(consistent) if spread and covered >= 0.3 else 0.0
    return Kind(VOCABULARY, "each value under the row of another", explained)


def _newer(evidence: CategoryEvidence) -> Kind | None:
    """What the model's vocabulary does not have is served under a row: that of a vocabulary which has it."""
    served, expected, _ = evidence.sample()
    places = served != expected
    found = (expected == UNKNOWN_ROW) & (served >= FIRST_VOCABULARY_ROW)
    return Kind(VOCABULARY, "unknown values have rows", float((found | ~places).all(axis=1).mean()))


def _for_missing(evidence: CategoryEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    lacking = _nothing(expected) & ~_nothing(served)
    if not lacking.any():
        return None
    value, count = most_frequent(served[lacking, 0])
    return Kind(DEFAULT_FOR_MISSING, evidence.keys.get(value, "") if count else "", count / len(served))


def _constant(evidence: CategoryEvidence) -> Kind | None:
    first = int(np.argmax(evidence.differs))
    served, expected = evidence.served[first:, 0], evidence.expected[first:, 0]
    value, count = most_frequent(served)
    sampled, _, _ = evidence.sample()
    if count < 0.98 * len(served) or len(np.unique(expected)) < 2 or value in (UNKNOWN_ROW, MISSING_ROW):
        return None
    return Kind(CONSTANT, "", float((sampled[:, 0] == value).mean()))


def _list_forms(evidence: CategoryEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    if served.shape[1] == 1:
        return None
    same_items = (np.sort(served, axis=1) == np.sort(expected, axis=1)).all(axis=1)
    if same_items.mean() >= EXPLAINED:
        return Kind(ORDER, "", float(same_items.mean()))
    begins = ((served == expected) | (served == PADDING)).all(axis=1)
    return Kind(CUT, "", float(begins.mean()))


def _other_candidate(evidence: CategoryEvidence) -> Kind | None:
    if evidence.served.shape[1] > 1:
        return None
    share = share_of_other_candidates(
        evidence.served[:, 0], evidence.expected[:, 0], evidence.differs, evidence.requests
    )
    return Kind(OTHER_CANDIDATE, "", share)


def _default(evidence: CategoryEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    _, count = most_frequent(served[:, 0])
    if len(np.unique(expected[:, 0])) < 2:
        return None
    return Kind(DEFAULT, "", count / len(served))


_HYPOTHESES: Sequence[Callable[[CategoryEvidence], Kind | None]] = (
    _missing, _for_missing, _constant, _stale, _shifted_time, _other_vocabulary, _unknown, _newer, _list_forms,
    _other_candidate, _mapped, _default,
)  # fmt: skip
