"""The likely kind of a skew of a number; see :mod:`ctr_pipeline.online.skew_kinds`."""

from collections.abc import Callable, Sequence

import numpy as np

from ctr_pipeline.features import signed_log1p
from ctr_pipeline.features.clock_columns import clock_part
from ctr_pipeline.online.number_evidence import NumberEvidence, Numbers, close, known_of
from ctr_pipeline.online.number_functions import any_function, clipped, linear, offset, rounded, stepped
from ctr_pipeline.online.skew_kinds import (
    CONSTANT,
    DEFAULT,
    DEFAULT_FOR_MISSING,
    EXPLAINED,
    LEAST_ROWS,
    MISSING,
    OTHER_CANDIDATE,
    OTHER_FEATURE,
    STALE,
    TIME,
    TRANSFORM,
    UNIT,
    ZERO_FOR_MISSING,
    Kind,
    is_round,
    likely_kind,
    most_frequent,
    share_of_other_candidates,
)

_LARGEST = float(np.finfo(np.float32).max)


def kind_of_number(evidence: NumberEvidence) -> Kind:
    """The likely kind of a skew of a number."""
    return likely_kind(evidence, _HYPOTHESES)


def _missing(evidence: NumberEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    share = float((np.isnan(served) & ~np.isnan(expected)).mean())
    # A snapshot of before the key was known lacks values too; it does not lack all.
    all_gone = bool(np.isnan(evidence.served[evidence.differs | ~np.isnan(evidence.expected)]).mean() >= EXPLAINED)
    stale = None if all_gone else _stale(evidence)
    # Another feature may lack values too.
    other = _other_feature(evidence) if share >= EXPLAINED else None
    if other is not None and other.explained > share + 0.01:
        return other
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
    """Over all rows from the first that differs on: rows that agree by chance have the constant too.

    What is missing may still be missing.
    """
    first = int(np.argmax(evidence.differs))
    served, expected = evidence.served[first:], evidence.expected[first:]
    there = ~np.isnan(served) | ~np.isnan(expected)
    if len(np.unique(expected[~np.isnan(expected)])) + bool(np.isnan(expected).any()) < 2 or not there.any():
        return None
    value, count = most_frequent(served)
    other = ~np.isnan(expected) & (expected != value)
    held = min(count / there.sum(), float((served[other] == value).mean()) if other.any() else 0.0)
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
        # A small number may be larger by one: a time begins again after a period, or follows that of the requests.
        wraps = len(np.unique(np.round(change[known & np.isclose(np.mod(change, period), value)], 6))) > 1
        follows = evidence.ts is not None and _follows_clock(evidence, int(period))
        if value and (wraps or follows):
            signed = value if value <= period / 2 else value - period
            return Kind(TIME, f"{signed:+g} of {period:g}", count / len(served))
    return None


def _follows_clock(evidence: NumberEvidence, period: int) -> bool:
    """Whether the right values are a part of the time of the requests, in whatever zone."""
    assert evidence.ts is not None, "asked before"
    known = np.isfinite(evidence.expected)
    values = np.floor(evidence.expected[known]).astype(np.int64)
    _, counts = np.unique(np.mod(values - clock_part(evidence.ts[known], period), period), return_counts=True)
    return bool(counts.max(initial=0) >= EXPLAINED * len(values) and len(np.unique(values)) >= 3)


def _unit(evidence: NumberEvidence) -> Kind | None:
    served, expected, _ = evidence.sample()
    usable = np.isfinite(served) & np.isfinite(expected) & (expected != 0) & (served != 0)
    if usable.sum() < LEAST_ROWS:
        return None
    ratios = served[usable] / expected[usable]
    factor = float(np.median(ratios))
    close_by = np.abs(ratios / factor - 1) <= 1e-4
    # A changed sign alone is no unit.
    if abs(abs(factor) - 1) < 1e-3 or (len(np.unique(expected[usable])) < 3 and not is_round(factor)):
        return None
    return Kind(UNIT, f"×{factor:.4g}", float(close_by.sum() / len(served)))


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
        "absolute": np.abs,
        "sign changed": np.negative,
        "complement": lambda x: 1 - x,
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


_HYPOTHESES: Sequence[Callable[[NumberEvidence], Kind | None]] = (
    _constant, _missing, _for_missing, _stale, _shifted_time, _unit, _transform, offset, linear, rounded, clipped,
    _other_feature, stepped, _default, _other_candidate, any_function,
)  # fmt: skip
