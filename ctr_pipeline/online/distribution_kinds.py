"""The likely kind of a shift, from the distributions alone: for rows whose impressions are not known.

Each hypothesis predicts quantiles or shares from the reference ones; the first that fits names the shift.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features import FIRST_VOCABULARY_ROW, UNKNOWN_ROW
from ctr_pipeline.features.input_profile import MISSING_BIN, QUANTILES, SECOND_BIN, ColumnProfile, stability_index
from ctr_pipeline.online.number_evidence import NumberEvidence, Numbers
from ctr_pipeline.online.number_kinds import transforms
from ctr_pipeline.online.skew_kinds import (
    CONSTANT,
    DEFAULT,
    DEFAULT_FOR_MISSING,
    MISSING,
    TRANSFORM,
    UNIT,
    VOCABULARY,
    ZERO_FOR_MISSING,
    Kind,
)

MIX = "other mix"
"""The values are known ones, in other shares."""

NEW_VALUES = "new values"
SPREAD = "other spread"

FITS = 0.12
"""Largest difference of predicted and found quantiles of many rows, relative to the spread between the outer ones."""

LEAST_FACTOR, SURE_FACTOR = 1.3, 5.0
"""A number that is multiplied by less than the first is not; by more than the second, it is no traffic."""

MOST_APART = 0.25
"""Largest logarithm of an estimated factor over that of the unit that it is: half of what lies between two units."""

MOST_VALUES = 5
"""Of the most frequent values one is a default."""

MOST_CHANGED = 3
"""Values that are more or less frequent than before are no other vocabulary where so few of them are, and the others have their
shares: a campaign that begins, and one that ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSample:
    """The served values of a column from the shift on, and what they should look like."""

    values: NDArray[np.generic]
    profile: ColumnProfile
    size: int
    """As how many independent rows they count."""


def kind_of_shift(sample: ColumnSample) -> Kind:
    """The first hypothesis that fits."""
    for hypothesis in _OF_CATEGORIES if sample.profile.is_id else _OF_NUMBERS:
        found = hypothesis(sample)
        if found is not None:
            return found
    return Kind(MIX if sample.profile.is_id else SPREAD)


def _shares(sample: ColumnSample) -> tuple[Numbers, Numbers]:
    counts, reference = sample.profile.count(sample.values), np.array(sample.profile.counts)
    return counts / max(1.0, counts.sum()), reference / max(1.0, reference.sum())


def _top(values: NDArray[np.generic]) -> tuple[float, float]:
    numbers = values.astype(np.float64)
    found, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
    if not len(found):
        return 0.0, 0.0
    best = int(np.argmax(counts))
    return float(found[best]), float(counts[best] / len(numbers))


def _rest_is_usual(sample: ColumnSample, without: NDArray[np.bool_]) -> bool:
    """Whether the other values have their usual shares: then those without explain the shift."""
    profile = sample.profile
    rest = sample.values[~without]
    if len(rest) < 0.1 * len(sample.values):
        return True
    own, usual = profile.count(rest), np.array(profile.counts)
    lacking = np.zeros(len(usual), np.bool_)
    lacking[np.unique(profile.bin_of(sample.values[without]))] = True
    if lacking.all() or own[~lacking].sum() < 1:
        return True
    whole = stability_index(profile.count(sample.values), usual)
    return stability_index(own[~lacking], usual[~lacking]) <= max(0.1, 0.25 * whole)


def _missing(sample: ColumnSample) -> Kind | None:
    share, usual = (of[MISSING_BIN] for of in _shares(sample))
    more = share - usual >= 0.02 and share >= 1.5 * usual
    if not more or not _rest_is_usual(sample, sample.profile.bin_of(sample.values) == MISSING_BIN):
        return None
    return Kind(MISSING, f"{share:.0%}, usual {usual:.0%}")


def _constant(sample: ColumnSample) -> Kind | None:
    value, share = _top(sample.values)
    known = not sample.profile.is_id or value >= FIRST_VOCABULARY_ROW
    detail = "" if sample.profile.is_id else f"{value:g}"
    return Kind(CONSTANT, detail, share) if known and share >= 0.98 and sample.profile.top[1] < 0.9 else None


def _for_missing(sample: ColumnSample) -> Kind | None:
    """Nothing is missing any more, and one value is as much more frequent as values were missing."""
    own, usual = _shares(sample)
    gone = usual[MISSING_BIN] - own[MISSING_BIN]
    if own[MISSING_BIN] > 0.1 * usual[MISSING_BIN] or gone <= 0:
        return None
    if sample.profile.is_id:
        return Kind(DEFAULT_FOR_MISSING)
    if abs(own[SECOND_BIN] - usual[SECOND_BIN] - gone) <= max(0.35 * gone, 0.01):
        return Kind(ZERO_FOR_MISSING)
    value, share = _top(sample.values)
    if share < 0.6 * gone:
        return None
    return Kind(ZERO_FOR_MISSING) if value == 0 else Kind(DEFAULT_FOR_MISSING, f"{value:g}")


def _default(sample: ColumnSample) -> Kind | None:
    numbers = sample.values.astype(np.float64)
    found, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    if not len(order):
        return None
    values, shares = found[order], counts[order] / len(numbers)
    most, of_most = sample.profile.top
    # Others have at most the share of their bin.
    usual = np.where(values == most, of_most, _shares(sample)[1][sample.profile.bin_of(values)])
    best = int(np.argmax(shares - usual))
    value, share = float(values[best]), float(shares[best])
    if share - usual[best] < 0.05 or not _rest_is_usual(sample, numbers == value):
        return None
    return Kind(DEFAULT, f"{value:g}", share)


def _quantiles(sample: ColumnSample) -> tuple[Numbers, Numbers] | None:
    numbers = sample.values.astype(np.float64)
    present = numbers[np.isfinite(numbers)]
    if len(present) < 50 or not sample.profile.quantiles:
        return None
    return np.quantile(present, QUANTILES), np.array(sample.profile.quantiles)


def _fit(found: Numbers, predicted: Numbers) -> float:
    """Difference between quantiles, relative to their spread."""
    if not np.isfinite(predicted).all():
        return np.inf
    spread = max(float(found[-5] - found[4]), 1e-12)
    return float(np.abs(found - predicted)[4:-4].mean() / spread)


def _formula(sample: ColumnSample) -> Kind | None:
    """Unit, transform, factor or offset: whichever predicts the quantiles best, if any does and they differ without it."""
    pair = _quantiles(sample)
    if pair is None:
        return None
    found, usual = pair
    fits: list[tuple[float, Kind]] = []
    usable = (found[4:-4] != 0) & (usual[4:-4] != 0)
    if usable.sum() >= 5:
        factor = float(np.median(found[4:-4][usable] / usual[4:-4][usable]))
        if factor > 0 and max(factor, 1 / factor) >= LEAST_FACTOR:
            size = _round_factor(factor, _error_of_factor(usual, sample.size))
            # Prices may rise by half; no traffic multiplies them by a hundred.
            if size is None and max(factor, 1 / factor) < SURE_FACTOR:
                kind = Kind(SPREAD, f"about ×{factor:.3g}")
            else:
                kind = Kind(UNIT, f"×{size or factor:.3g}")
            fits.append((_fit(found, usual * factor), kind))
    evidence = NumberEvidence(
        served=found, expected=usual, differs=np.ones(len(found), np.bool_), requests=np.arange(len(found))
    )
    with np.errstate(all="ignore"):
        for name, made in transforms(evidence).items():
            if name in ("sign changed", "complement", "reciprocal", "standardised", "standardised without a logarithm"):
                continue
            predicted = made(usual)
            if np.isfinite(predicted).all() and (np.diff(predicted) >= 0).all():
                fits.append((_fit(found, predicted), Kind(TRANSFORM, name)))
    shift = float(np.median(found - usual))
    spread = float(usual[-5] - usual[4])
    if abs(shift) >= 0.5 * spread > 0:
        # A formula with a parameter fits more than one without.
        fits.append((1.3 * _fit(found, usual + shift), Kind(SPREAD, f"about {shift:+.3g}")))
    before = _fit(found, usual)
    # Of small values log2(1 + x) is a factor, and many transforms are near one: what is said first is the simplest that fits.
    near = FITS + 0.5 / np.sqrt(max(sample.size, 1))
    plain = [fit for fit in fits[:1] if fit[1].name in (UNIT, SPREAD) and fit[0] <= near]
    best = min(plain or fits, key=lambda fit: fit[0], default=None)
    return best[1] if best is not None and best[0] <= near and best[0] <= 0.4 * before else None


def _error_of_factor(usual: Numbers, rows: int) -> float:
    """Standard error of the logarithm of a factor that is the ratio of medians of ``rows`` rows and of very many."""
    low, high = usual[len(usual) // 4], usual[-1 - len(usual) // 4]
    if not (low > 0 or high < 0):
        return 0.0
    # The quartiles of a normal distribution lie 1.35 deviations apart; its median has 1.25 times the error of the mean.
    return float(1.25 * abs(np.log(high / low)) / 1.35 / np.sqrt(max(rows, 1)))


def _round_factor(factor: float, error: float) -> float | None:
    """The unit nearest to a factor that was estimated; None where it is none.

    Args:
        factor: The estimate.
        error: Standard error of its logarithm.
    """
    sizes = [10.0**n for n in range(-9, 10) if n] + [60.0, 3600.0, 86400.0, 1 / 60, 1 / 3600, 1 / 86400, 24.0, 1 / 24]
    nearest = min(sizes, key=lambda size: abs(np.log(factor / size)))
    return nearest if abs(np.log(factor / nearest)) <= min(0.15 + 2 * error, MOST_APART) else None


def _unknown(sample: ColumnSample) -> Kind | None:
    own, usual = _shares(sample)
    rise = float(own[SECOND_BIN] - usual[SECOND_BIN])
    if rise < 0.02 or own[SECOND_BIN] < 1.5 * usual[SECOND_BIN]:
        return None
    detail = f"{own[SECOND_BIN]:.0%} are unknown, usual {usual[SECOND_BIN]:.0%}"
    return Kind(VOCABULARY if own[SECOND_BIN] >= 0.9 else NEW_VALUES, detail, float(own[SECOND_BIN]))


def _renamed(sample: ColumnSample) -> Kind | None:
    """The shares are the usual ones, but of other values."""
    counts, reference = sample.profile.count(sample.values)[2:], np.array(sample.profile.counts)[2:]
    if len(reference) < 3 or counts.sum() < 50:
        return None
    as_named, by_size = (
        stability_index(counts, reference),
        stability_index(np.sort(counts)[::-1], np.sort(reference)[::-1]),
    )
    # Of few rows an index is larger by chance: by so much for each bin.
    chance = 1 / sample.size
    as_named -= (len(reference) - 1) * chance
    own = counts[np.argmax(reference)] / counts.sum()
    usual = reference.max() / reference.sum()
    grown = np.argsort(reference / reference.sum() - counts / counts.sum(), kind="stable")
    rest = grown[min(MOST_CHANGED, len(grown) // 3) : len(grown) - min(MOST_CHANGED, len(grown) // 8)]
    if stability_index(counts[rest], reference[rest]) - (len(rest) - 1) * chance <= 0.25 * as_named:
        return None
    renamed = as_named >= 0.5 and (by_size <= 0.25 * as_named or own < 0.2 * usual)
    return Kind(VOCABULARY, "values have other rows") if renamed else None


_OF_NUMBERS: Sequence[Callable[[ColumnSample], Kind | None]] = (
    _constant, _missing, _for_missing, _default, _formula,
)  # fmt: skip
_OF_CATEGORIES: Sequence[Callable[[ColumnSample], Kind | None]] = (
    _constant, _missing, _unknown, _for_missing, _renamed,
)  # fmt: skip

assert UNKNOWN_ROW == SECOND_BIN, "the second bin of a category is that of unknown values"
