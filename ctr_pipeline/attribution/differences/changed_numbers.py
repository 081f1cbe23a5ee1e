"""What was done to a number, from its values on both sides of the same impressions.

Each hypothesis says what the new values would be; the first that says it of nearly all rows that differ is named.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.attribution.differences.difference import number, percent

Numbers = NDArray[np.float64]

NEARLY_ALL = 0.95
"""Share of the differing rows that a hypothesis has to say."""

MOST_ROWS = 50_000
CLOSE = 1e-4
"""Relative difference below which two numbers are one: both may have been stored in single precision."""

UNITS = {
    60.0: "seconds for minutes", 3600.0: "seconds for hours", 86400.0: "seconds for days", 24.0: "hours for days",
    1000.0: "thousandths", 100.0: "hundredths, such as cents or percent", 1e6: "millionths",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NumberChange:
    """What was done to a number.

    Attributes:
        form: In one or two words.
        words: After the name of the feature, such as "is 100 times what it was".
        explained: Share of the differing rows that it says.
        other: The feature whose values it has, where it has those of another.
    """

    form: str
    words: str
    explained: float
    other: str | None = None


def differing(old: Numbers, new: Numbers) -> NDArray[np.bool_]:
    """[N] where two columns differ; two missing values do not."""
    both = np.isnan(old) & np.isnan(new)
    found: NDArray[np.bool_] = ~both & ~_close(old, new, 1e-7)
    return found


def number_change(old: Numbers, new: Numbers, others: Mapping[str, Numbers], kept: Numbers) -> NumberChange:
    """What was done to a number, of rows that differ.

    Args:
        old: [K] values of the old side; NaN = missing.
        new: [K] values of the new side, other ones in every row.
        others: [K] values of the old side's other numbers, by feature.
        kept: Values of the rows that do not differ.
    """
    if len(old) > MOST_ROWS:
        chosen = np.linspace(0, len(old) - 1, MOST_ROWS).astype(np.intp)
        old, new = old[chosen], new[chosen]
        others = {name: values[chosen] for name, values in others.items()}
    tried = [hypothesis(old, new) for hypothesis in _HYPOTHESES]
    found = [change for change in (_capped(old, new, kept), *tried) if change is not None]
    copied = _other_feature(new, others)
    if copied is not None:
        found.append(copied)
    for change in found:
        if change.explained >= NEARLY_ALL:
            return change
    best = max(found, key=lambda change: change.explained, default=None)
    if best is not None and best.explained >= 0.5:
        return NumberChange(
            best.form, f"{best.words} in {percent(best.explained)} of the rows that differ", best.explained, best.other
        )
    return _described(old, new)


def _close(first: Numbers, second: Numbers, relative: float = CLOSE) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        found: NDArray[np.bool_] = (
            np.abs(first - second) <= relative * np.maximum(np.abs(first), np.abs(second)) + 1e-12
        )
    return found


def _share(found: NDArray[np.bool_]) -> float:
    return float(found.mean()) if len(found) else 0.0


def _missing(old: Numbers, new: Numbers) -> NumberChange | None:
    return NumberChange("missing", "is missing where it had a value", _share(np.isnan(new) & ~np.isnan(old)))


def _filled(old: Numbers, new: Numbers) -> NumberChange | None:
    filled = np.isnan(old) & ~np.isnan(new)
    if not filled.any():
        return None
    values, counts = np.unique(new[filled], return_counts=True)
    value, share = values[np.argmax(counts)], counts.max() / len(new)
    if counts.max() < NEARLY_ALL * filled.sum():
        return NumberChange("filled", "has values where it was missing", _share(filled))
    return NumberChange("missing filled", f"is {number(value)} where it was missing", float(share))


def _constant(old: Numbers, new: Numbers) -> NumberChange | None:
    there = new[~np.isnan(new)]
    if len(there) < 10 or len(np.unique(there)) > 1 or len(np.unique(old[~np.isnan(old)])) < 3:
        return None
    return NumberChange("constant", f"is {number(there[0])} in all of them", len(there) / len(new))


def _scaled(old: Numbers, new: Numbers) -> NumberChange | None:
    usable = (old != 0) & np.isfinite(old) & np.isfinite(new) & (new != 0)
    if usable.sum() < 5 or len(np.unique(old[usable])) < 3:
        return None
    factor = float(np.median(new[usable] / old[usable]))
    explained = _share(_close(old * factor, new))
    if abs(factor + 1) < CLOSE:
        return NumberChange("sign", "has the other sign", explained)
    if factor < 0:
        return NumberChange("unit", f"is {number(factor)} times what it was", explained)
    size = max(factor, 1 / factor)
    unit = next((words for known, words in UNITS.items() if abs(size / known - 1) < 1e-3), "")
    words = f"is {number(factor)} times what it was" if factor > 1 else f"is a {number(size)}th of what it was"
    return NumberChange("unit", f"{words} (×{number(factor)}{'; ' + unit if unit else ''})", explained)


def _moved(old: Numbers, new: Numbers) -> NumberChange | None:
    apart = new - old
    if not np.isfinite(apart).any():
        return None
    step = float(np.nanmedian(apart))
    return NumberChange(
        "offset",
        f"is {number(abs(step))} {'more' if step > 0 else 'less'} than it was",
        _share(_close(old + step, new)),
    )


def _complement(old: Numbers, new: Numbers) -> NumberChange | None:
    total = old + new
    if not np.isfinite(total).any():
        return None
    whole = float(np.nanmedian(total))
    return NumberChange("complement", f"is {number(whole)} minus what it was", _share(_close(whole - old, new)))


_TRANSFORMS: dict[str, Callable[[Numbers], Numbers]] = {
    "log(1 + x)": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "logarithm": np.log,
    "logarithm to base 10": np.log10,
    "logarithm to base 2": np.log2,
    "exponential minus 1": np.expm1,
    "exponential": np.exp,
    "square root": np.sqrt,
    "square": np.square,
    "reciprocal": lambda x: 1 / x,
    "absolute value": np.abs,
    "logit": lambda x: np.log(x / (1 - x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def _transformed(old: Numbers, new: Numbers) -> NumberChange | None:
    best: NumberChange | None = None
    if len(np.unique(old[np.isfinite(old)])) < 3:
        return None
    for name, transform in _TRANSFORMS.items():
        with np.errstate(all="ignore"):
            explained = _share(_close(transform(old), new, 1e-3))
        if best is None or explained > best.explained:
            best = NumberChange("transform", f"is the {name} of what it was", explained)
    return best


def _rounded(old: Numbers, new: Numbers) -> NumberChange | None:
    for digits in range(4, -5, -1):
        scale = 10.0**digits
        for name, cut in (("rounded", np.round), ("cut off", np.floor), ("cut off", np.trunc)):
            if (explained := _share(_close(cut(old * scale) / scale, new, 1e-5))) >= NEARLY_ALL:
                place = (
                    "to whole numbers"
                    if digits == 0
                    else f"to {digits} digits behind the point"
                    if digits > 0
                    else f"to {number(1 / scale)}s"
                )
                return NumberChange("rounded", f"is {name} {place}", explained)
    return None


def _capped(old: Numbers, new: Numbers, kept: Numbers) -> NumberChange | None:
    there = new[np.isfinite(new)]
    if len(there) < 5:
        return None
    values, counts = np.unique(there, return_counts=True)
    edge = float(values[np.argmax(counts)])
    above, below = (
        _share((old > edge) & _close(new, np.full_like(new, edge))),
        _share((old < edge) & _close(new, np.full_like(new, edge))),
    )
    rest = kept[np.isfinite(kept)]
    # Without rows that stay below, all rows have one value now: that is no limit, but a constant.
    if max(above, below) < NEARLY_ALL or not ((rest < edge) if above >= below else (rest > edge)).any():
        return None
    if above >= below:
        return NumberChange("capped", f"is at most {number(edge)}", above)
    return NumberChange("capped", f"is at least {number(edge)}", below)


def _affine(old: Numbers, new: Numbers) -> NumberChange | None:
    usable = np.isfinite(old) & np.isfinite(new)
    if usable.sum() < 20 or np.std(old[usable]) == 0:
        return None
    slope, offset = np.polyfit(old[usable], new[usable], 1)
    if abs(slope) < 1e-9:
        return None
    apart = np.abs(slope * old + offset - new) <= 1e-4 * max(float(np.std(new[usable])), 1e-12)
    words = f"is {number(slope)} times what it was, {'plus' if offset >= 0 else 'minus'} {number(abs(offset))}"
    return NumberChange("scale and offset", words, _share(apart))


def _monotone(old: Numbers, new: Numbers) -> NumberChange | None:
    usable = np.isfinite(old) & np.isfinite(new)
    if usable.sum() < 50:
        return None
    values, first = np.unique(old[usable], return_inverse=True)
    if len(values) < 10:
        return None
    # A function has one new value for each old one.
    sums, counts = np.bincount(first, new[usable]), np.bincount(first)
    means = sums / counts
    tight = _close(means[first], new[usable], 1e-5)
    steps = np.diff(means)
    if len(np.unique(means)) < 5 or (
        len(values) > 0.9 * usable.sum() and not ((steps >= 0).all() or (steps <= 0).all())
    ):
        return None
    if (steps >= 0).mean() > 0.99 or (steps <= 0).mean() > 0.99:
        return NumberChange("transform", "is a monotone function of what it was", float(tight.sum() / len(old)))
    return None


def _other_feature(new: Numbers, others: Mapping[str, Numbers]) -> NumberChange | None:
    best: NumberChange | None = None
    for name, values in others.items():
        same = _close(values, new) | (np.isnan(values) & np.isnan(new))
        # A constant is like nothing in particular.
        if len(np.unique(values[np.isfinite(values)])) < 3:
            continue
        if best is None or _share(same) > best.explained:
            best = NumberChange("other feature", f"has the values of {name}", _share(same), name)
    return best


_HYPOTHESES = (
    _missing, _filled, _constant, _scaled, _moved, _complement, _rounded, _transformed, _affine, _monotone,
)  # fmt: skip


def _described(old: Numbers, new: Numbers) -> NumberChange:
    """By its quantiles, where nothing that is known was done to it."""
    first, second = old[np.isfinite(old)], new[np.isfinite(new)]
    if not len(first) or not len(second):
        return NumberChange("other values", "has other values", 0.0)
    if len(first) == len(second) and _share(_close(np.sort(first), np.sort(second))) >= NEARLY_ALL:
        return NumberChange("other rows", "has the values of other impressions: its rows were mixed up", 1.0)
    before, after = np.median(first), np.median(second)
    ranks = _rank_correlation(old, new)
    return NumberChange(
        "other values",
        f"has other values (median {number(before)} before, {number(after)} now; rank correlation {ranks:.2f})",
        0.0,
    )


def _rank_correlation(old: Numbers, new: Numbers) -> float:
    usable = np.isfinite(old) & np.isfinite(new)
    if usable.sum() < 3:
        return 0.0
    ranks = [np.argsort(np.argsort(values[usable])) for values in (old, new)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
