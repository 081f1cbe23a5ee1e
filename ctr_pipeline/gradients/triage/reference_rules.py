"""What training rows say of causes beside those of the last good run: what is wrong in later rows too shows there alone.

Logs change between two runs, so that nothing here is beyond doubt: all of it warns. Features that are made of the past or follow
the time differ between healthy logs and are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.feature_profile import area_under_curve
from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.feature_rules import FIRST_ROW
from ctr_pipeline.gradients.triage.row_sample import FEWEST, Rows, auc_error, cross_scores

FEWEST_ROWS = 500

ERRORS = 8
"""Standard errors from which an AUC is one."""

MANY = 10
"""Different ids from which a feature has many."""

UNIT = 20.0
"""Factor between spreads, up to which a log may have grown or shrunk."""

LOST = 0.4
"""Share of what a feature said of the outcome, up to which it has lost it."""

RISEN = 0.3
"""Share of the rows by which something may be more frequent than in the last good run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """Rows of a training, with their numbers as they are stored.

    Attributes:
        rows: The rows.
        raw: [N, D] numbers, neither transformed nor standardised.
    """

    rows: Rows
    raw: NDArray[np.float64]


def reference_clues(own: Profiled, good: Profiled) -> Iterator[Clue]:
    """Clues from training rows beside those of the last good run.

    Args:
        own: The rows in question.
        good: Those of the last good run.
    """
    if min(len(own.rows), len(good.rows)) < FEWEST_ROWS:
        return
    left_out = own.rows.from_past | own.rows.from_time
    formed = list(_column_clues(own, good, left_out))
    yield from formed
    # What has changed in a form that is told says more, or less, of the outcome for that.
    named = {clue.location for clue in formed}
    yield from (clue for clue in _signal_clues(own.rows, good.rows, left_out) if clue.location not in named)


def _column_clues(own: Profiled, good: Profiled, left_out: frozenset[str]) -> Iterator[Clue]:
    for at, name in enumerate(own.rows.number_names):
        if name in good.rows.number_names and name not in left_out:
            there = good.raw[:, list(good.rows.number_names).index(name)]
            yield from _number_clues(name, own.raw[:, at], there)
    for at, name in enumerate(own.rows.id_names):
        if name in good.rows.id_names and name not in left_out:
            yield from _id_clues(name, own.rows.ids[:, at], good.rows.ids[:, list(good.rows.id_names).index(name)])
    yield from _pair_clues(own, good, left_out)


def _number_clues(name: str, own: NDArray[np.float64], there: NDArray[np.float64]) -> Iterator[Clue]:
    missing, missing_there = float(np.isnan(own).mean()), float(np.isnan(there).mean())
    if missing - missing_there > RISEN:
        text = f"feature {name} is missing in {missing:.0%} of the training rows, and in {missing_there:.0%} of those of the last good run"
        yield Clue(cause="feature_missing", weight=0.8, text=text, location=name)
        return
    own, there = own[np.isfinite(own)], there[np.isfinite(there)]
    if min(len(own), len(there)) < FEWEST_ROWS:
        return
    found = _changed_form(own, there)
    if found is not None:
        yield Clue(cause=found[0], weight=0.8, text=f"feature {name} {found[1]} in the last good run", location=name)


def _changed_form(own: NDArray[np.float64], there: NDArray[np.float64]) -> tuple[str, str] | None:
    """In which form numbers differ from those of the last good run: a cause, and a clause; None where in none."""
    whole, whole_there = (float((values == np.round(values)).mean()) for values in (own, there))
    if len(np.unique(own)) == 1 and len(np.unique(there)) > 1:
        return "feature_missing", f"has the value {own[0]:.4g} alone, and {len(np.unique(there))} different ones"
    if whole > 0.99 and whole_there < 0.5:
        return "feature_drift", f"has whole numbers alone, and {whole_there:.0%} whole numbers"
    below, below_there = (float((values < 0).mean()) for values in (own, there))
    if min(below_there, 1 - below_there) > 0.05 and (below == 0 or (own <= 0).all()):
        return "feature_drift", f"has values of one sign alone, and {below_there:.0%} negative ones"
    spread, spread_there = (float(np.subtract(*np.quantile(values, [0.9, 0.1]))) for values in (own, there))
    moved = abs(float(np.median(own) - np.median(there))) / max(spread_there, 1e-12)
    if spread_there > 0 and (not 1 / UNIT < spread / spread_there < UNIT or moved > 5):
        return (
            "unnormalised_feature",
            f"spreads {spread / spread_there:.3g} times as widely, and its median lies {moved:.3g} spreads away from that",
        )
    values, counts = np.unique(own, return_counts=True)
    top = int(counts.argmax())
    share, share_there = counts[top] / len(own), float((there == values[top]).mean())
    if share - share_there > RISEN:
        return "feature_drift", f"is {values[top]:.4g} in {share:.0%} of the rows, and in {share_there:.0%}"
    return None


def _id_clues(name: str, own: NDArray[np.int64], there: NDArray[np.int64]) -> Iterator[Clue]:
    """Of ids; each run has a vocabulary of its own, so that their numbers are not compared."""
    for row, cause, what in ((0, "feature_missing", "missing"), (1, "hash_clip", "unknown to its vocabulary")):
        share, share_there = float((own == row).mean()), float((there == row).mean())
        if share - share_there > RISEN:
            text = f"feature {name} is {what} in {share:.0%} of the training rows, and in {share_there:.0%} of those of the last good run"
            yield Clue(cause=cause, weight=0.8, text=text, location=name)
            return
    known, known_there = own[own >= FIRST_ROW], there[there >= FIRST_ROW]
    if min(len(known), len(known_there)) < FEWEST_ROWS:
        return
    few = min(len(known), len(known_there))
    distinct, distinct_there = (len(np.unique(_spread(ids, few))) for ids in (known, known_there))
    if distinct < 0.3 * distinct_there and distinct_there >= MANY:
        text = f"{distinct} different ids of feature {name} occur, and {distinct_there} among as many rows of the last good run"
        yield Clue(cause="hash_clip", weight=0.8, text=text, location=name)
        return
    top, top_there = (float(np.bincount(ids).max()) / len(ids) for ids in (known, known_there))
    # Of a few values, as days of the week, a short log may have one alone.
    if top - top_there > RISEN and distinct_there >= MANY:
        text = f"one id of feature {name} has {top:.0%} of the rows, and the most frequent one of the last good run {top_there:.0%}"
        yield Clue(cause="hash_clip", weight=0.78, text=text, location=name)


def _spread(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return values[np.linspace(0, len(values) - 1, count).astype(np.int64)]


def _pair_clues(own: Profiled, good: Profiled, left_out: frozenset[str]) -> Iterator[Clue]:
    """Columns that have become equal to another one, or follow from it, and did not."""
    names, there = list(own.rows.number_names), list(good.rows.number_names)
    for at, name in enumerate(names):
        for other in range(at + 1, len(names)):
            pair = name, names[other]
            if set(pair) <= set(there) and _alike(own.raw, at, other) > 0.99 > 0.5 + _alike(
                good.raw, *map(there.index, pair)
            ):
                text = f"features {pair[0]} and {pair[1]} have the same values, and had not in the last good run"
                yield Clue(cause="feature_permuted", weight=0.8, text=text, location=name)
    ids, ids_there = list(own.rows.id_names), list(good.rows.id_names)
    for at, name in enumerate(ids):
        for other, of in enumerate(ids):
            if other == at or not {name, of} <= set(ids_there) or {name, of} & left_out:
                continue
            before = _follows(good.rows.ids[:, ids_there.index(name)], good.rows.ids[:, ids_there.index(of)])
            now = _follows(own.rows.ids[:, at], own.rows.ids[:, other])
            if now is not None and before is not None and now > 0.99 and before < 0.8:
                text = f"each id of feature {of} has one of feature {name}, which held for {before:.0%} of the rows in the last good run"
                yield Clue(cause="ids_misplaced", weight=0.8, text=text, location=name)


def _alike(raw: NDArray[np.float64], one: int, other: int) -> float:
    """Share of the rows in which two columns are equal and not 0."""
    return float(((raw[:, one] == raw[:, other]) & (raw[:, one] != 0)).mean())


def _follows(ids: NDArray[np.int64], of: NDArray[np.int64]) -> float | None:
    """Share of the rows that have the most frequent of ``ids`` of their value of ``of``; None where that is trivial."""
    both = (ids >= FIRST_ROW) & (of >= FIRST_ROW)
    ids, of = ids[both], of[both]
    if len(ids) < FEWEST_ROWS or len(np.unique(ids)) < MANY or len(np.unique(of)) > 0.2 * len(of):
        return None
    pairs, counts = np.unique(of * (int(ids.max()) + 1) + ids, return_counts=True)
    value, largest = pairs // (int(ids.max()) + 1), np.zeros(int(of.max()) + 1, dtype=np.int64)
    np.maximum.at(largest, value, counts)
    return float(largest.sum()) / len(ids)


def _signal_clues(own: Rows, good: Rows, left_out: frozenset[str]) -> Iterator[Clue]:
    """Features that said much of the outcome and say little of it now, while others say what they said; and the other way round."""
    for task in range(len(own.tasks)):
        if own.tasks[task] not in good.tasks:
            continue
        there_task = list(good.tasks).index(own.tasks[task])
        pair = ((own, task), (good, there_task))
        if any(min(int((rows.labels[:, at] == y).sum()) for y in (0, 1)) < FEWEST for rows, at in pair):
            continue
        here, there = (_alone(rows, at) for rows, at in pair)
        errors = [auc_error(rows.labels[rows.labels[:, at] >= 0, at] == 1) for rows, at in pair]
        error = float(np.hypot(errors[0], errors[1]))
        telling = {n: v - 0.5 for n, v in there.items() if n in here and n not in left_out and v - 0.5 > ERRORS * error}
        shares = {name: (here[name] - 0.5) / value for name, value in telling.items()}
        for name, share in shares.items():
            others = [kept for other, kept in shares.items() if other != name]
            if share < LOST and max(others, default=1.0) > 0.75:
                text = f"feature {name} alone told task {own.tasks[task]} with an AUC of {there[name]:.3f} in the last good run, and tells it with {here[name]:.3f}"
                yield Clue(cause="feature_permuted", weight=0.8, text=text, location=name)
        for name, value in here.items():
            if (
                name in there
                and name not in left_out
                and value > 0.75
                and value - there[name] > max(0.1, ERRORS * error)
            ):
                text = f"feature {name} alone tells task {own.tasks[task]} with an AUC of {value:.3f}, and told it with {there[name]:.3f} in the last good run"
                yield Clue(cause="leak", weight=0.8, text=text, location=name)
        return


def _alone(rows: Rows, task: int) -> dict[str, float]:
    known = rows.labels[:, task] >= 0
    positive = rows.labels[known, task] == 1
    return {name: area_under_curve(scores[known], positive) for name, scores in cross_scores(rows, task).items()}
