"""The likely kind of a skew of a number; see :mod:`ctr_pipeline.online.skew_kinds`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features import signed_log1p
from ctr_pipeline.online.skew_kinds import (
    CONSTANT,
    DEFAULT,
    DEFAULT_FOR_MISSING,
    EXPLAINED,
    LEAST_ROWS,
    MISSING,
    OFFSET,
    OTHER_CANDIDATE,
    OTHER_FEATURE,
    ROUNDED,
    STALE,
    TIME,
    TRANSFORM,
    UNIT,
    ZERO_FOR_MISSING,
    Kind,
    Mask,
    is_round,
    likely_kind,
    looked_at,
    most_frequent,
    share_of_other_candidates,
)

Numbers = NDArray[np.float64]

_LARGEST = float(np.finfo(np.float32).max)


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
        rows = looked_at(self.differs)
        return self.served[rows], self.expected[rows], rows


def kind_of_number(evidence: NumberEvidence) -> Kind:
    """The likely kind of a skew of a number."""
    return likely_kind(evidence, _HYPOTHESES)


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
    value, count = most_frequent(served[lacking])
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
    value, count = most_frequent(served)
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
        value, count = most_frequent(np.round(change[known] / 900) * 900)
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
        value, count = most_frequent(np.round(turned, 6))
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
        value, count = most_frequent(served[differs & beyond])
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
    value, count = most_frequent(served)
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


_HYPOTHESES: Sequence[Callable[[NumberEvidence], Kind | None]] = (
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


def _half(values: Numbers) -> Numbers:
    """As half precision holds them."""
    found: Numbers = values.astype(np.float16).astype(np.float64)
    return found
