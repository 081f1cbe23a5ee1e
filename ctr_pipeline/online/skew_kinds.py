"""What a skew is likely to be: hypotheses, each of which is tested on the rows that differ.

A hypothesis says what would have been served if it were true. The one that explains the differing rows names the skew; of
several, the one that stands first, since it says more. Where none does, the skew is `unexplained`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

EXPLAINED = 0.9
"""Share of the differing rows that a hypothesis must explain."""

LEAST_ROWS = 5
"""With fewer differing rows nothing is said of the kind."""

MOST_ROWS = 4000
"""Of more differing rows, so many are looked at, spread evenly."""

_LARGEST = float(np.finfo(np.float32).max)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberEvidence:
    """The rows of one number. K rows were compared, of which some differ."""

    served: Numbers
    """[K]; NaN = missing."""
    expected: Numbers
    """[K] as recomputed."""
    differs: Mask
    """[K]"""
    requests: NDArray[np.int64]
    """[K] the request of each row."""
    earlier: Callable[[int], Numbers] | None = None
    """[K] values from a snapshot so many days older; None where the feature has no history."""
    others: Mapping[str, Numbers] = field(default_factory=dict)
    """[K] recomputed values of the other numbers."""
    is_age: bool = False
    """Whether it is a time in seconds before the impression."""
    fill: float = 0.0
    """What the model puts in the place of a missing value."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Mean and deviation by which the model standardises it."""
    logarithmic: bool = False
    """Whether the model takes its logarithm before that."""

    def sample(self) -> "tuple[Numbers, Numbers, NDArray[np.intp]]":
        """Served and expected values of the differing rows, at most :data:`MOST_ROWS`, and where they are."""
        rows = np.flatnonzero(self.differs)
        if len(rows) > MOST_ROWS:
            rows = rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(np.intp)]
        return self.served[rows], self.expected[rows], rows


Hypothesis = Callable[[NumberEvidence], Kind | None]


def kind_of_number(evidence: NumberEvidence) -> Kind:
    """The first hypothesis that explains the differing rows."""
    if evidence.differs.sum() < LEAST_ROWS:
        return Kind(UNEXPLAINED, "too few rows")
    for hypothesis in _HYPOTHESES:
        found = hypothesis(evidence)
        if found is not None and found.explained >= EXPLAINED:
            return found
    return Kind(UNEXPLAINED)


def _missing(evidence: NumberEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    share = float((np.isnan(served) & ~np.isnan(expected)).mean())
    # A snapshot of before the key was known lacks values too; it does not lack all.
    all_gone = bool(np.isnan(evidence.served[evidence.differs | ~np.isnan(evidence.expected)]).mean() >= EXPLAINED)
    stale = None if all_gone else _stale(evidence)
    return stale if stale is not None and stale.explained >= EXPLAINED else Kind(MISSING, "", share)


def _for_missing(evidence: NumberEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    lacking = np.isnan(expected) & ~np.isnan(served)
    if not lacking.any():
        return None
    value, count = _mode(served[lacking])
    share = count / len(served)
    if value == 0:
        return Kind(ZERO_FOR_MISSING, "", share)
    return Kind(DEFAULT_FOR_MISSING, f"{value:g}", share)


def _constant(evidence: NumberEvidence) -> Kind | None:
    """Over all rows from the first that differs on: rows that agree by chance have the constant too."""
    first = int(np.argmax(evidence.differs))
    served, expected = evidence.served[first:], evidence.expected[first:]
    if len(np.unique(expected[~np.isnan(expected)])) + bool(np.isnan(expected).any()) < 2:
        return None
    value, count = _mode(served)
    held = count / len(served)
    sampled, _, _ = evidence.sample()
    return Kind(CONSTANT, f"{value:g}", float((sampled == value).mean())) if held >= 0.98 else None


def _stale(evidence: NumberEvidence) -> Kind | None:
    if evidence.earlier is None:
        return None
    served, _, rows = evidence.sample()
    best: Kind | None = None
    for days in range(1, 15):
        then = evidence.earlier(days)[rows]
        share = float(close(served, then).mean())
        if best is None or share > best.explained + 1e-9:
            best = Kind(STALE, f"{days} day{'s' if days > 1 else ''} old", share)
    return best


def _shifted_time(evidence: NumberEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    change = served - expected
    known = np.isfinite(change)
    if not known.any():
        return None
    if evidence.is_age:
        value, count = _mode(np.round(change[known] / 900) * 900)
        near = np.abs(change - value) <= np.maximum(1.0, 1e-6 * np.abs(expected))
        whole = value != 0 and abs(value) <= 15 * 3600
        return Kind(TIME, f"{value / 3600:+g} h", float((near & known).mean())) if whole and count else None
    for period in (24.0, 7.0, 168.0):
        inside = (evidence.served[known_of(evidence)] >= 0).all() and (
            np.maximum(evidence.served, evidence.expected)[known_of(evidence)] <= period
        ).all()
        if not inside or len(np.unique(expected[known])) < 3:
            continue
        turned = np.mod(change[known], period)
        value, count = _mode(np.round(turned, 6))
        plain = len(np.unique(np.round(change[known], 6))) == 1
        if value and not (plain and period != 24.0):
            signed = value if value <= period / 2 else value - period
            return Kind(TIME, f"{signed:+g} of {period:g}", count / len(served))
    return None


def _unit(evidence: NumberEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    usable = np.isfinite(served) & np.isfinite(expected) & (expected != 0) & (served != 0)
    if usable.sum() < LEAST_ROWS:
        return None
    ratios = served[usable] / expected[usable]
    factor = float(np.median(ratios))
    close_by = np.abs(ratios / factor - 1) <= 1e-4
    if abs(factor - 1) < 1e-3 or (len(np.unique(expected[usable])) < 3 and not is_round(factor)):
        return None
    return Kind(UNIT, f"×{factor:.4g}", float(close_by.sum() / len(served)))


def _offset(evidence: NumberEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    change = served - expected
    usable = np.isfinite(change)
    if usable.sum() < LEAST_ROWS or len(np.unique(expected[usable])) < 3:
        return None
    middle = float(np.median(change[usable]))
    size = np.maximum(np.abs(served), np.abs(expected))
    near = np.abs(change - middle) <= np.maximum(1e-6 * size, 1e-4 * abs(middle))
    return Kind(OFFSET, f"{middle:+.4g}", float((near & usable).sum() / len(served)))


def transforms(evidence: NumberEvidence) -> dict[str, Callable[[Numbers], Numbers]]:
    """What a value may have become, by name."""
    mean, deviation = evidence.scale

    def standardised(x: Numbers) -> Numbers:
        raw = signed_log1p(x) if evidence.logarithmic else x
        return (raw - mean) / deviation

    return {
        "log1p": signed_log1p,
        "expm1": lambda x: np.sign(x) * np.expm1(np.abs(x)),
        "standardised": standardised,
        "standardised without a logarithm": lambda x: (x - mean) / deviation,
        "log": np.log,
        "log2": np.log2,
        "log10": np.log10,
        "log2 of 1 + x": lambda x: np.log2(1 + x),
        "log10 of 1 + x": lambda x: np.log10(1 + x),
        "exp": np.exp,
        "square root": np.sqrt,
        "square": np.square,
        "reciprocal": np.reciprocal,
        "logit": lambda x: np.log(x / (1 - x)),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "sign changed": np.negative,
        "complement": lambda x: 1 - x,
        "absolute": np.abs,
    }


def _transform(evidence: NumberEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    best: Kind | None = None
    with np.errstate(all="ignore"):
        for name, made in transforms(evidence).items():
            then = made(expected)
            # As in encoding: what single precision cannot hold is missing.
            then = np.where(np.abs(then) <= _LARGEST, then, np.nan)
            share = float((close(served, then, 1e-5) & ~close(expected, then, 1e-5)).mean())
            if best is None or share > best.explained:
                best = Kind(TRANSFORM, name, share)
    return best


def _rounded(evidence: NumberEvidence) -> Kind | None:
    # Of all rows from the first on: a default in place of some values looks rounded where these are small.
    first = int(np.argmax(evidence.differs))
    served, expected = evidence.served[first:], evidence.expected[first:]
    best: Kind | None = None
    with np.errstate(all="ignore"):
        forms: dict[str, Numbers] = {"cut to a whole number": np.trunc(expected), "floor": np.floor(expected)}
        forms |= {f"{digits} digits": np.round(expected, digits) for digits in (0, 1, 2, 3)}
        forms |= {"half precision": _half(expected)}
    for name, made in forms.items():
        share = float(close(served, made).mean())
        if best is None or share > best.explained:
            best = Kind(ROUNDED, name, share)
    return best


def _clipped(evidence: NumberEvidence) -> Kind | None:
    """Every value beyond a limit is served as the limit."""
    known = known_of(evidence)
    served, expected = evidence.served[known], evidence.expected[known]
    differs = evidence.differs[known]
    if not differs.any():
        return None
    found, limits = np.zeros(len(served), np.bool_), []
    for beyond, name in ((expected > served, "at most"), (expected < served, "at least")):
        value, count = _mode(served[differs & beyond])
        outside = expected > value if name == "at most" else expected < value
        if count and (served[outside] == value).mean() >= 0.98:
            found |= outside & (served == value)
            limits.append(f"{name} {value:g}")
    share = float((found & differs).sum() / evidence.differs.sum())
    return Kind(ROUNDED, " and ".join(limits), share) if limits and len(np.unique(served)) > 2 else None


def _other_feature(evidence: NumberEvidence) -> Kind | None:
    served, _, rows = evidence.sample()
    best: Kind | None = None
    for name, values in evidence.others.items():
        share = float(close(served, values[rows]).mean())
        if best is None or share > best.explained:
            best = Kind(OTHER_FEATURE, name, share)
    return best


def _other_candidate(evidence: NumberEvidence) -> Kind | None:
    share = share_of_other_candidates(evidence.served, evidence.expected, evidence.differs, evidence.requests)
    return Kind(OTHER_CANDIDATE, "", share)


def _default(evidence: NumberEvidence) -> Kind | None:
    served, _, _ = evidence.sample()
    value, count = _mode(served)
    name = "fill of the model" if value == evidence.fill and value != 0 else f"{value:g}"
    return Kind(DEFAULT, name, count / len(served))


def _any_function(evidence: NumberEvidence) -> Kind | None:
    """The value is a strictly increasing or decreasing function of the right one, whatever it is."""
    served, expected, _ = evidence.sample()
    usable = np.isfinite(served) & np.isfinite(expected)
    x, first = np.unique(expected[usable], return_index=True)
    y = served[usable][first]
    if len(x) < 20 or len(np.unique(y)) < 0.9 * len(y):
        return None
    same = np.abs(served[usable] - y[np.searchsorted(x, expected[usable])]) <= 1e-6 * np.abs(served[usable])
    steps = np.diff(y)
    ordered = max(float((steps > 0).mean()), float((steps < 0).mean()))
    return Kind(TRANSFORM, "another one", min(float(same.sum() / len(served)), ordered if ordered > 0.99 else 0.0))


_HYPOTHESES: Sequence[Hypothesis] = (
    _missing, _for_missing, _constant, _stale, _shifted_time, _unit, _transform, _offset, _rounded, _clipped,
    _other_feature, _default, _other_candidate, _any_function,
)  # fmt: skip


def close(served: Numbers, expected: Numbers, tolerance: float = 1e-6) -> Mask:
    """Where two values are equal within a relative tolerance, or both are missing."""
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.abs(served), np.abs(expected))
        near = (np.abs(served - expected) <= tolerance * size) & np.isfinite(size)
    found: Mask = near | (served == expected) | (np.isnan(served) & np.isnan(expected))
    return found


def known_of(evidence: NumberEvidence) -> Mask:
    """Where both values are there."""
    found: Mask = np.isfinite(evidence.served) & np.isfinite(evidence.expected)
    return found


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


def signed_log1p(values: Numbers) -> Numbers:
    """sign(x) · log(1 + abs(x))."""
    found: Numbers = np.sign(values) * np.log1p(np.abs(values))
    return found


def _mode(values: NDArray[np.floating[Any]]) -> tuple[float, int]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), 0
    found, counts = np.unique(known, return_counts=True)
    best = int(np.argmax(counts))
    return float(found[best]), int(counts[best])


def _half(values: Numbers) -> Numbers:
    """As half precision holds them."""
    found: Numbers = values.astype(np.float16).astype(np.float64)
    return found


def is_round(factor: float) -> bool:
    """Whether it is a factor that separates units: a power of ten, or seconds, minutes, hours, days."""
    sizes = [10.0**n for n in range(1, 10)] + [60.0, 3600.0, 24.0, 86400.0, 7.0, 1024.0]
    return any(abs(factor / size - 1) < 1e-3 or abs(factor * size - 1) < 1e-3 for size in sizes)
