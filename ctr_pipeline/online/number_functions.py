"""Hypotheses of a number that is a function of the right one, or the other way round: rounded, clipped, in steps, linear, another one.

Whichever of the two has more detail, a step is left out, or taken once too often.
"""

import numpy as np

from ctr_pipeline.online.number_evidence import NumberEvidence, Numbers, close, known_of
from ctr_pipeline.online.skew_kinds import (
    EXPLAINED,
    LEAST_ROWS,
    OFFSET,
    ROUNDED,
    TRANSFORM,
    Kind,
    Mask,
    most_frequent,
)

_ROWS_OF_VALUE = 5
"""A function of few values is one where so many rows of each, on average, agree."""

_CONSISTENT = 0.98


def offset(evidence: NumberEvidence) -> Kind | None:
    """A constant is added."""
    served, expected, _ = evidence.sample()
    change = served - expected
    usable = np.isfinite(change)
    if usable.sum() < LEAST_ROWS or len(np.unique(expected[usable])) < 3:
        return None
    middle = float(np.median(change[usable]))
    size = np.maximum(np.abs(served), np.abs(expected))
    near = np.abs(change - middle) <= np.maximum(1e-6 * size, 1e-4 * abs(middle))
    return Kind(OFFSET, f"{middle:+.4g}", float((near & usable).sum() / len(served)))


def linear(evidence: NumberEvidence) -> Kind | None:
    """A factor and a constant, as between two scales of temperature, or of a standardised value."""
    served, expected, _ = evidence.sample()
    usable = np.isfinite(served) & np.isfinite(expected)
    x, y = expected[usable], served[usable]
    if len(x) < LEAST_ROWS or len(np.unique(x)) < 3:
        return None
    low, high = np.argsort(x, kind="stable")[[len(x) // 10, -1 - len(x) // 10]]
    if x[low] == x[high]:
        low, high = int(np.argmin(x)), int(np.argmax(x))
    factor = float((y[high] - y[low]) / (x[high] - x[low]))
    constant = float(y[low] - factor * x[low])
    if not np.isfinite(factor) or abs(factor - 1) < 1e-3 or factor == 0:
        return None
    size = np.abs(factor * x) + abs(constant)
    near = np.abs(y - factor * x - constant) <= 1e-5 * size
    return Kind(TRANSFORM, f"×{factor:.4g} {constant:+.4g}", float(near.sum() / len(served)))


def rounded(evidence: NumberEvidence) -> Kind | None:
    """Digits are lost, or kept where the right value has lost them."""
    # Of all rows from the first on: a default in place of some values looks rounded where these are small.
    first = int(np.argmax(evidence.differs))
    served, expected = evidence.served[first:], evidence.expected[first:]
    lost = _rounding(served, expected)
    if lost.explained >= EXPLAINED:
        return lost
    kept = _rounding(expected, served)
    return Kind(TRANSFORM, f"rounding left out: {kept.detail}", kept.explained)


def _rounding(found: Numbers, exact: Numbers) -> Kind:
    """How ``found`` is ``exact`` with fewer digits; not where hardly anything is left of it."""
    best = Kind(ROUNDED)
    known = np.isfinite(found) & np.isfinite(exact)
    if len(np.unique(found[known])) < 2:
        return best
    with np.errstate(all="ignore"):
        forms: dict[str, Numbers] = {"cut to a whole number": np.trunc(exact), "floor": np.floor(exact)}
        forms |= {f"{digits} digits": np.round(exact, digits) for digits in (0, 1, 2, 3)}
        forms |= {
            "half precision": _half(exact),
            "bfloat16": _bfloat16(exact),
            "bfloat16, rounded": _bfloat16(exact, True),
        }
        step = _step(found[known])
        if step is not None:
            forms[f"multiples of {step:.4g}"] = np.round(exact / step) * step
            forms[f"multiples of {step:.4g} below"] = np.floor(exact / step) * step
        for name, made in forms.items():
            share = float(close(found, made).mean())
            if share > best.explained:
                best = Kind(ROUNDED, name, share)
    return best


def _step(values: Numbers) -> float | None:
    """The number of which all values are multiples, where it is not the smallest difference by chance."""
    distinct = np.unique(values)
    gaps = np.diff(distinct)
    if len(gaps) < 2:
        return None
    step = float(gaps.min())
    multiples = distinct / step
    return step if np.abs(multiples - np.round(multiples)).max() <= 1e-3 else None


def clipped(evidence: NumberEvidence) -> Kind | None:
    """Every value beyond a limit is served as the limit, or as it is where the right one is the limit."""
    cut = _clipping(evidence, evidence.served, evidence.expected)
    if cut is not None:
        return Kind(TRANSFORM, f"clipped, {cut[0]}", cut[1])
    left = _clipping(evidence, evidence.expected, evidence.served)
    return None if left is None else Kind(TRANSFORM, f"clipping left out, {left[0]}", left[1])


def _clipping(evidence: NumberEvidence, cut: Numbers, whole: Numbers) -> tuple[str, float] | None:
    known = known_of(evidence)
    cut, whole, differs = cut[known], whole[known], evidence.differs[known]
    if not differs.any():
        return None
    found, limits = np.zeros(len(cut), np.bool_), []
    for beyond, name in ((whole > cut, "at most"), (whole < cut, "at least")):
        value, count = most_frequent(cut[differs & beyond])
        outside = whole > value if name == "at most" else whole < value
        if count and (cut[outside] == value).mean() >= _CONSISTENT:
            found |= outside & (cut == value)
            limits.append(f"{name} {value:g}")
    share = float((found & differs).sum() / evidence.differs.sum())
    if not limits or len(np.unique(cut)) <= 2 or share < EXPLAINED:
        return None
    return " and ".join(limits), share


def stepped(evidence: NumberEvidence) -> Kind | None:
    """A few ordered values stand for intervals of the right one, or the right one's for those of what is served."""
    made = _steps(evidence.served, evidence.expected, evidence.differs)
    if made is not None:
        return Kind(TRANSFORM, f"{made[0]} intervals", made[1])
    left = _steps(evidence.expected, evidence.served, evidence.differs)
    return None if left is None else Kind(TRANSFORM, f"intervals left out, {left[0]} of them", left[1])


def _steps(coarse: Numbers, fine: Numbers, differs: Mask) -> tuple[int, float] | None:
    """Number of intervals, and the share of the differing rows that lie in theirs."""
    first = int(np.argmax(differs))
    known = np.isfinite(coarse[first:]) & np.isfinite(fine[first:])
    y, x = coarse[first:][known], fine[first:][known]
    levels, level = np.unique(y, return_inverse=True)
    distinct = len(np.unique(x))
    if len(levels) < 2 or distinct < 1.5 * len(levels) or len(y) < _ROWS_OF_VALUE * len(levels):
        return None
    low, high = np.full(len(levels), np.inf), np.full(len(levels), -np.inf)
    np.minimum.at(low, level, x)
    np.maximum.at(high, level, x)
    # Intervals of ascending or descending values must not overlap.
    for order in (slice(None), slice(None, None, -1)):
        starts, ends = low[order], high[order]
        if (starts[1:] >= ends[:-1]).all():
            return len(levels), float(known[differs[first:]].sum() / differs.sum())
    return None


def any_function(evidence: NumberEvidence) -> Kind | None:
    """The value is a strictly increasing or decreasing function of the right one, whatever it is."""
    served, expected, _ = evidence.sample()
    usable = np.isfinite(served) & np.isfinite(expected)
    x, first = np.unique(expected[usable], return_index=True)
    y = served[usable][first]
    if len(x) < 3 or (len(x) < 20 and usable.sum() < _ROWS_OF_VALUE * len(x)) or len(np.unique(y)) < 0.9 * len(y):
        return None
    same = np.abs(served[usable] - y[np.searchsorted(x, expected[usable])]) <= 1e-6 * np.abs(served[usable])
    steps = np.diff(y)
    ordered = max(float((steps > 0).mean()), float((steps < 0).mean()))
    return Kind(TRANSFORM, "another one", min(float(same.sum() / len(served)), ordered if ordered > 0.99 else 0.0))


def _half(values: Numbers) -> Numbers:
    """As half precision holds them."""
    found: Numbers = values.astype(np.float16).astype(np.float64)
    return found


def _bfloat16(values: Numbers, nearest: bool = False) -> Numbers:
    """As the upper half of a single-precision number holds them, cut off or rounded."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x8000 if nearest else bits) & 0xFFFF0000
    found: Numbers = kept.astype(np.uint32).view(np.float32).astype(np.float64)
    return found
