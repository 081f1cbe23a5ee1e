"""What the features of the training rows say of causes, beside those of rows that are trusted."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.row_sample import Rows

FAR_APART, APART = 0.5, 0.3
"""Largest distance of two distribution functions (Kolmogorov and Smirnov) that is strange, and that is suspicious."""

COLLAPSED = 0.1
"""Share of the rows by which one id may be more frequent than among trusted rows."""

NEARLY_ALL, FLAT = 0.999, 0.1
"""Share of the rows with one value, and standard deviation of standardised numbers, from which, and below which, a feature tells
nothing."""

PART = 0.8
"""Share of the trusted rows that lie within the bounds of the training rows, up to which these are a selection."""

FIRST_ROW = 2
"""The vocabulary's row of the most frequent value; 0 is missing and 1 unknown."""


def feature_clues(train: Rows, trusted: Rows) -> Iterator[Clue]:
    """Clues from each feature's distribution.

    Args:
        train: Training rows, in the order of their time, evenly spread: what follows the day or the hour is then mixed.
        trusted: Rows of another part of the dataset.
    """
    # When a log begins, nothing is known of the past: what is made of it is compared where it is there.
    late = len(train) * 3 // 4
    for at, name in enumerate(train.number_names):
        own = train.numbers[late if name in train.from_past else 0 :, at]
        yield from _number_clues(name, own, trusted.numbers[:, at], from_past=name in train.from_past)
    for at, name in enumerate(train.id_names):
        # What follows from the time differs between parts of a dataset that are split by time.
        if name in train.from_time:
            continue
        ids = train.ids[late if name in train.from_past else 0 :, at]
        words = train.id_rows[at] - FIRST_ROW if at < len(train.id_rows) else 0
        if words > 1 and len(ids) >= 500 and len(np.unique(ids)) == len(np.unique(trusted.ids[:, at])) == 1:
            text = (
                f"feature {name} has id {int(ids[0])} in all rows, and {words} are in its vocabulary: it tells nothing"
            )
            yield Clue(cause="feature_missing", weight=0.78, text=text, location=name)
            continue
        yield from _id_clues(name, ids, trusted.ids[:, at])


def _number_clues(
    name: str, own: NDArray[np.float64], other: NDArray[np.float64], *, from_past: bool
) -> Iterator[Clue]:
    if infinite := int(np.isinf(own).sum()):
        text = f"feature {name} is infinite in {infinite} of {len(own)} sampled training rows"
        yield Clue(cause="infinite_feature", weight=0.9, text=text, location=name, separating=True)
    missing, missing_there = float(np.isnan(own).mean()), float(np.isnan(other).mean())
    if missing - missing_there > 0.2:
        text = f"feature {name} is missing in {missing:.0%} of the training rows and in {missing_there:.0%} of the trusted ones"
        weight = 0.9 if missing > 0.9 else 0.8
        yield Clue(cause="feature_missing", weight=weight, text=text, location=name, separating=True)
    elif missing_there - missing > 0.3:
        text = f"feature {name} is missing in {missing_there:.0%} of the later rows and in {missing:.0%} of the training rows"
        yield Clue(cause="train_serving_skew", weight=0.75, text=text, location=name)
    if missing == 1 and missing_there == 1 and len(own) >= 500:
        text = f"feature {name} is missing in all rows"
        yield Clue(cause="feature_missing", weight=0.78, text=text, location=name)
    own, other = own[np.isfinite(own)], other[np.isfinite(other)]
    if len(own) < 100 or len(other) < 100:
        return
    spread, spread_there = _spread(own), _spread(other)
    # Of a feature with one value, or one that most rows share, the spread says nothing.
    value, count = _mode(own)
    share, there = count / len(own), float((other == value).mean())
    # A flag that few rows have spreads as its statistics say; what was cut down to one value does not.
    flat = max(float(own.std()), float(other.std())) < FLAT
    if min(share, there) > NEARLY_ALL and flat and len(own) >= 500:
        text = f"feature {name} is {value:.4g} (standardised) in {share:.2%} of the training rows and in {there:.2%} of the others: it tells nothing"
        yield Clue(cause="feature_missing", weight=0.78, text=text, location=name)
        return
    if share - there > 0.3:
        text = f"feature {name} is {value:.4g} (standardised) in {share:.0%} of the training rows and in {there:.0%} of the trusted ones"
        cause, weight = ("feature_missing", 0.9) if share > 0.9 else ("feature_drift", 0.7)
        yield Clue(cause=cause, weight=weight, text=text, location=name, separating=share > 0.9)
        return
    # A time since something, of a log that began lately, has no large values yet.
    if not from_past and (part := _selected(name, own, other)) is not None:
        yield part
        against = replace(part, cause="unnormalised_feature", weight=0.5, against=True)
        yield replace(against, text=f"within these bounds feature {name} is distributed as among trusted rows")
        return
    scaled = spread / spread_there if spread_there > 0 else 1.0
    moved = abs(float(np.median(own) - np.median(other))) / max(spread_there, 1e-12)
    if spread_there > 0 and (not 0.2 < scaled < 5 or moved > 5):
        text = (
            f"feature {name} spreads {scaled:.3g} times as widely as among trusted rows, its median lies "
            f"{moved:.3g} of their spreads away"
        )
        # The training statistics are those of the rows that are as they should be.
        right = _standard(own, spread) and not _standard(other, spread_there)
        cause = "train_serving_skew" if right else "unnormalised_feature"
        yield Clue(cause=cause, weight=0.9, text=text, location=name, separating=True)
        return
    distance = _distance(own, other)
    if distance > APART:
        text = f"the distribution of feature {name} differs from that of trusted rows by {distance:.2f} (above {APART:g} is suspicious)"
        yield Clue(cause="feature_drift", weight=0.7 if distance > FAR_APART else 0.45, text=text, location=name)


def _selected(name: str, own: NDArray[np.float64], other: NDArray[np.float64]) -> Clue | None:
    """A feature whose training rows are those of trusted rows between two bounds, and none beyond them."""
    low, high = (float(value) for value in np.quantile(own, [0.005, 0.995]))
    inside = other[(other >= low) & (other <= high)]
    left = len(inside) / len(other)
    if len(own) < 500 or len(inside) < 300 or left > PART:
        return None
    # Of two samples of one distribution, at one per mille (Kolmogorov and Smirnov).
    chance = 1.95 * float(np.sqrt(1 / len(own) + 1 / len(inside)))
    if _distance(own, inside) > chance + 0.03:
        return None
    text = (
        f"training rows have values of feature {name} between {low:.3g} and {high:.3g} (standardised) alone, spread there as among "
        f"trusted rows, of which {1 - left:.0%} lie outside: rows were selected by it"
    )
    return Clue(cause="feature_drift", weight=0.88, text=text, location=name)


def _id_clues(name: str, own: NDArray[np.int64], other: NDArray[np.int64]) -> Iterator[Clue]:
    for row, cause, what in ((0, "feature_missing", "missing"), (1, "hash_clip", "unknown to the vocabulary")):
        share, there = float((own == row).mean()), float((other == row).mean())
        if share - there > 0.2:
            text = (
                f"feature {name} is {what} in {share:.0%} of the training rows and in {there:.0%} of the trusted ones"
            )
            weight = 0.9
            yield Clue(cause=cause, weight=weight, text=text, location=name, separating=cause == "feature_missing")
            return
    known, known_there = own[own >= FIRST_ROW], other[other >= FIRST_ROW]
    if len(known) < 500 or len(known_there) < 500:
        return
    size = int(max(known.max(), known_there.max())) + 1
    shares, shares_there = (np.bincount(ids, minlength=size) / len(ids) for ids in (known, known_there))
    risen = shares - shares_there
    top = int(risen.argmax())
    moved = float(np.abs(risen).sum()) / 2
    # By chance, each share has an error of its root over the rows.
    noise = float(np.sqrt(2 * np.minimum(shares + shares_there, 1) / min(len(known), len(known_there))).sum()) / 2
    distinct, distinct_there = int((shares > 0).sum()), int((shares_there > 0).sum())
    if risen[top] > COLLAPSED and risen[top] > 0.6 * moved:
        text = (
            f"feature {name}: row {top} has {shares[top]:.0%} of the training rows and {shares_there[top]:.0%} of the trusted "
            f"ones; {distinct} rows occur, and {distinct_there} there"
        )
        one = distinct <= 1 and distinct_there > 1
        cause = "feature_missing" if one else "hash_clip"
        yield Clue(cause=cause, weight=0.9, text=text, location=name, separating=True)
    elif moved > 0.25 and moved > 3 * noise:
        few = distinct < 0.5 * distinct_there
        # Other names for the same values leave the shares of the most frequent, the second, … as they were.
        renamed = float(np.abs(np.sort(shares) - np.sort(shares_there)).sum()) / 2 < 0.3 * moved
        cause = "ids_misplaced" if renamed or not few else "hash_clip"
        text = (
            f"feature {name}: {moved:.0%} of the training rows have another id than among trusted rows (chance: {noise:.0%}); "
            f"{distinct} rows occur, and {distinct_there} there"
        )
        # Trusted rows of a shorter time have fewer values, and others over time: both are no fault.
        if distinct_there < 0.5 * distinct:
            return
        weight = 0.9 if renamed else 0.8 if few else 0.45 if moved > 0.5 else 0.2
        yield Clue(cause=cause, weight=weight, text=text, location=name, separating=renamed)


def _standard(values: NDArray[np.float64], spread: float) -> bool:
    """Whether values that were standardised lie about 0, and spread about as widely as a deviation."""
    return abs(float(np.median(values))) < 2 and 0.3 < spread < 6


def _mode(values: NDArray[np.float64]) -> tuple[float, int]:
    found, counts = np.unique(values, return_counts=True)
    at = int(counts.argmax())
    return float(found[at]), int(counts[at])


def _spread(values: NDArray[np.float64]) -> float:
    low, high = np.quantile(values, [0.1, 0.9])
    return float(high - low)


def _distance(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    both = np.sort(np.concatenate([own, other]))
    return float(
        np.abs(
            np.searchsorted(np.sort(own), both, side="right") / len(own)
            - np.searchsorted(np.sort(other), both, side="right") / len(other)
        ).max()
    )
