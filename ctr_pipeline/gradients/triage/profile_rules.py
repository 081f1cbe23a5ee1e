"""What a profile of the training rows says of mistakes that were made before they were packed.

Rows by their order in time, by segment, by label and by weight, beside rows that are trusted. Such mistakes leave no stage of the
training otherwise than declared. All limits are wide: healthy logs drift, and their last rows are of other days.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.feature_profile import area_under_curve
from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.row_sample import Rows, auc_error, cross_scores

CUTS = 8
"""Parts of equal size into which the rows are cut by their order."""

UNIT = 5.0
"""Times by which the typical size of a number changes at a cut where its unit may have changed."""

SEGMENTS = 30
"""Values up to which a feature of ids is looked at value by value."""

ATOM = 0.04
"""Share of the rows that have one value of a number, where next to no trusted row has it."""

FEWEST_EXPECTED = 25.0
"""Outcomes that a segment must be expected to have before it is strange that it has none."""

LIKE_BEFORE = 0.1
"""Share of the rows of other segments than those that are gone, up to which these are as among trusted rows."""

BY_LABEL = 1.5
"""Factor between the mean weights of the two classes that is strange where their shares are those of trusted rows."""


def profile_clues(train: Rows, neighbours: Rows, trusted: Rows) -> Iterator[Clue]:
    """Clues from profiles of the training rows.

    Args:
        train: Training rows in the order of their time, evenly spread.
        neighbours: Training rows that stand side by side.
        trusted: Rows of another part of the dataset.
    """
    for at, name in enumerate(train.number_names):
        if name not in train.from_past:
            yield from _atom_clues(name, train.numbers[:, at], trusted.numbers[:, at])
            yield from _unit_clues(name, train.numbers[:, at], trusted.numbers[:, at])
        yield from _missing_clues(name, train.numbers[:, at], trusted.numbers[:, at], train, trusted)
    for at, name in enumerate(train.id_names):
        if name not in train.from_time and name not in train.from_past:
            yield from _segment_clues(name, at, train, trusted)
    yield from _weight_clues(train, trusted)
    yield from _shift_clues(neighbours, trusted)


def _atom_clues(name: str, own: NDArray[np.float64], other: NDArray[np.float64]) -> Iterator[Clue]:
    """One value that many rows have and that is not one of the feature's."""
    own, other = own[np.isfinite(own)], other[np.isfinite(other)]
    if len(own) < 500 or len(other) < 500:
        return
    found, counts = np.unique(own, return_counts=True)
    place = int(counts.argmax())
    value, share = float(found[place]), float(counts[place]) / len(own)
    there = float((other == value).mean())
    if share < ATOM or there > 0.1 * share:
        return
    edge = "the largest" if place == len(found) - 1 else "the smallest" if place == 0 else "one"
    text = f"{share:.1%} of the training rows have {edge} value {value:.4g} (standardised) of feature {name}, and {there:.1%} of the trusted ones"
    yield Clue(cause="feature_drift", weight=0.78, text=text, location=name)


def _unit_clues(name: str, own: NDArray[np.float64], other: NDArray[np.float64]) -> Iterator[Clue]:
    """A number whose spread changes at some time by a factor, and only that of one side is that of trusted rows."""
    parts = [part[np.isfinite(part)] for part in np.array_split(own, CUTS)]
    other = other[np.isfinite(other)]
    if min((len(part) for part in parts), default=0) < 100 or len(other) < 100:
        return
    spreads, there = [_spread(part) for part in parts], _spread(other)
    if there <= 0 or min(spreads) <= 0:
        return
    for cut in range(1, CUTS):
        first, last = np.array(spreads[:cut]), np.array(spreads[cut:])
        apart = max(float(last.min() / first.max()), float(first.min() / last.max()))
        if apart > UNIT:
            text = f"from {cut / CUTS:.0%} of the training rows on feature {name} spreads {apart:.3g} times more or less widely than before"
            yield Clue(cause="unnormalised_feature", weight=0.85, text=text, location=name)
            return


def _missing_clues(
    name: str, own: NDArray[np.float64], other: NDArray[np.float64], train: Rows, trusted: Rows
) -> Iterator[Clue]:
    """A feature that is missing by the outcome, and was not so among trusted rows."""
    for task, label in enumerate(train.tasks):
        here, there = _odds_by_label(np.isnan(own), train, task), _odds_by_label(np.isnan(other), trusted, task)
        if here is None or abs(here[0]) < 1.5 or abs(here[0]) < 4 * here[1]:
            continue
        if there is not None and abs(there[0]) > 0.5 * abs(here[0]):
            continue
        text = f"feature {name} is missing {np.exp(abs(here[0])):.3g} times as often (odds) {'with' if here[0] > 0 else 'without'} an outcome of task {label}"
        yield Clue(cause="leak", weight=0.85, text=text, location=name)
        return


def _odds_by_label(missing: NDArray[np.bool_], rows: Rows, task: int) -> tuple[float, float] | None:
    """Log of the ratio of the odds of being missing with and without an outcome, and its standard error."""
    positive, negative = rows.labels[:, task] == 1, rows.labels[:, task] == 0
    counts = [float((missing & p).sum()) + 0.5 for p in (positive, negative)]
    others = [float((~missing & p).sum()) + 0.5 for p in (positive, negative)]
    if sum(counts) < 30 or min(float(positive.sum()), float(negative.sum())) < 30:
        return None
    found = np.log(counts[0] * others[1] / (counts[1] * others[0]))
    return float(found), float(np.sqrt(sum(1 / value for value in (*counts, *others))))


def _segment_clues(name: str, at: int, train: Rows, trusted: Rows) -> Iterator[Clue]:
    """Of a feature with few values: segments that are not there, and outcomes that a segment lacks."""
    values, there = np.unique(trusted.ids[:, at], return_counts=True)
    if not 2 <= len(values) <= SEGMENTS or len(train) < 500 or len(trusted) < 500:
        return
    shares = np.array([float((train.ids[:, at] == value).mean()) for value in values])
    usual = there / len(trusted)
    gone = (shares < 0.05 * usual) & (usual > 0.1)
    # Of a feature that follows the time, as the day of the week, the others have other shares too.
    rest, rest_there = shares[~gone], usual[~gone]
    left = rest.sum() > 0.5 and rest_there.sum() > 0.4
    apart = 0.5 * float(np.abs(rest / rest.sum() - rest_there / rest_there.sum()).sum()) if left else 1.0
    if bool(gone.any()) and apart < LIKE_BEFORE:
        row, share = int(values[gone][0]), float(usual[gone][0])
        text = f"no more than {float(shares[gone].max()):.1%} of the training rows are of row {row} of feature {name}, and {share:.1%} of the trusted ones"
        yield Clue(cause="feature_drift", weight=0.77, text=text, location=name)
    for task, label in enumerate(train.tasks):
        for value in values:
            own, other = train.ids[:, at] == value, trusted.ids[:, at] == value
            known, known_there = own & (train.labels[:, task] >= 0), other & (trusted.labels[:, task] >= 0)
            positives = int((train.labels[known, task] == 1).sum())
            if known_there.sum() < 50:
                continue
            expected = float((trusted.labels[known_there, task] == 1).mean()) * int(known.sum())
            if expected > FEWEST_EXPECTED and positives < 0.05 * expected:
                text = f"rows with row {int(value)} of feature {name} have {positives} outcomes of task {label}, and {expected:.0f} are expected"
                yield Clue(cause="label_noise", weight=0.78, text=text, location=label)
                return


def _weight_clues(train: Rows, trusted: Rows) -> Iterator[Clue]:
    """Weights that follow the outcome though the share of outcomes needs no correction."""
    for task, label in enumerate(train.tasks):
        ones, zeros = (train.weights[train.labels[:, task] == y, task] for y in (1, 0))
        ones_there, zeros_there = (trusted.labels[:, task] == y for y in (1, 0))
        if min(len(ones), len(zeros), int(ones_there.sum()), int(zeros_there.sum())) < 100 or float(zeros.mean()) <= 0:
            continue
        factor = float(ones.mean() / zeros.mean())
        error = 4 * float(
            np.hypot(
                ones.std() / max(float(ones.mean()), 1e-12) / len(ones) ** 0.5,
                zeros.std() / float(zeros.mean()) / len(zeros) ** 0.5,
            )
        )
        odds = np.log(len(ones) / len(zeros)) - np.log(ones_there.sum() / zeros_there.sum())
        # Weights that undo a sampling by the outcome bring the share back to that of later rows.
        undone = abs(odds + np.log(max(factor, 1e-12))) < 0.5 * abs(np.log(max(factor, 1e-12)))
        if abs(np.log(max(factor, 1e-12))) > max(np.log(BY_LABEL), error) and not undone:
            text = f"the mean weight of outcomes of task {label} is {factor:.3g} times that of other rows, and as many are outcomes as among trusted rows"
            yield Clue(cause="class_weights", weight=0.8, text=text, location=label)
            return


def _shift_clues(neighbours: Rows, trusted: Rows) -> Iterator[Clue]:
    """Features that tell the outcome of rows some places away, and not that of their own.

    Beyond doubt where they tell that of their own among trusted rows.
    """
    for task in range(len(neighbours.tasks)):
        labels = neighbours.labels[:, task]
        known = labels >= 0
        if min(int((labels == 1).sum()), int((labels == 0).sum())) < 200:
            continue
        error = auc_error(labels[known] == 1)
        as_is, there = (_told(rows, task, 0) for rows in (neighbours, trusted))
        away = {by: _told(neighbours, task, by) for by in (-3, -2, -1, 1, 2, 3)}
        for name, value in as_is.items():
            by = max(away, key=lambda by: away[by][name])
            moved = away[by][name]
            if abs(value - 0.5) < 4 * error and moved - 0.5 > 8 * error:
                text = f"feature {name} tells the outcome of the row {by:+d} places away with an AUC of {moved:.3f}, and of its own with {value:.3f}"
                sure = there[name] - 0.5 > 8 * error
                weight = 0.93 if sure else 0.85
                yield Clue(cause="feature_permuted", weight=weight, text=text, location=name, separating=sure)
        return


def _told(rows: Rows, task: int, by: int) -> dict[str, float]:
    """By feature the AUC of a model of it alone, each half of the rows by the other, with its values ``by`` places away."""
    moved = replace(rows, numbers=np.roll(rows.numbers, by, axis=0), ids=np.roll(rows.ids, by, axis=0))
    known = rows.labels[:, task] >= 0
    positive = rows.labels[known, task] == 1
    return {name: area_under_curve(scores[known], positive) for name, scores in cross_scores(moved, task).items()}


def _spread(values: NDArray[np.float64]) -> float:
    low, high = np.quantile(values, [0.1, 0.9])
    return float(high - low)
