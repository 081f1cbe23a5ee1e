"""Why the model changed, on the side of the models: all measurements of two retrains on their replay rows."""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special, stats

from ctr_pipeline.attribution.grafts import grafts
from ctr_pipeline.attribution.importance import EncodedSide, attribution_changes, permutation_changes
from ctr_pipeline.attribution.model_change import DayChange, ModelChange, ScoreShift, SliceChange, TaskChange
from ctr_pipeline.attribution.replay_rows import Replay
from ctr_pipeline.attribution.resampling import REPLICATES, Resampling, entropies
from ctr_pipeline.attribution.trained_side import OTHER_CODE, ReplayRows
from ctr_pipeline.attribution.two_by_two import two_by_two
from ctr_pipeline.calibration.labelled import Float64s, Integers
from ctr_pipeline.evaluation.declared_slices import MISSING, interval_slices
from ctr_pipeline.evaluation.metrics import Interval
from ctr_pipeline.evaluation.paired_draws import METRICS, interval, resampled
from ctr_pipeline.evaluation.slices import slice_metrics, standard_slices
from ctr_pipeline.spec import Spec

EXAMINED_ROWS = 20_000
"""Matched rows on which blocks and permuted features are measured, at most."""

ATTRIBUTED_ROWS = 500
"""Rows whose integrated gradients are taken, of each task."""

BASELINE = "the mean row of the replayed rows, of each side as its own model encodes it; lists of events are empty"


def compare_models(
    replay: Replay,
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    examined_rows: int = EXAMINED_ROWS,
    attributed_rows: int = ATTRIBUTED_ROWS,
) -> ModelChange:
    """Measures what changed from the old side to the new one. Every interval is over the same draws of users.

    Args:
        replay: Both sides and their rows.
        seed: Of permutations and draws.
        replicates: Draws of users.
        examined_rows: Matched rows at most on which blocks and permuted features are measured.
        attributed_rows: Rows of these whose integrated gradients are taken; 0 leaves them out.
    """
    tasks, rows = replay.tasks, replay.new_matched
    (draws,) = Resampling.of(rows.clusters, seed=seed, replicates=replicates)
    users = _as_in_new(replay), replay.new_rows.clusters
    own = Resampling.of(*users, seed=seed, replicates=replicates)
    scores = [replay.old.logits(replay.old_matched, tasks), replay.new.logits(rows, tasks)]
    labels = _labels(rows, tasks)
    slices = slices_of(replay.new.spec, rows)
    periods = two_by_two(replay.old, replay.new, replay.old_rows, replay.new_rows, (own[0], own[1]))
    pipelines = (
        two_by_two(replay.old, replay.new, replay.old_matched, rows, (draws, draws))
        if replay.how != "not matched"
        else {}
    )
    opaque = [side.name for side in (replay.old, replay.new) if side.exported is not None]
    examined = replay.sample(examined_rows, seed)
    few, few_labels = examined.new_matched, _labels(examined.new_matched, tasks)
    (few_draws,) = Resampling.of(few.clusters, seed=seed, replicates=replicates)
    old = EncodedSide(replay.old, replay.old.encode(examined.old_matched))
    new = EncodedSide(replay.new, replay.new.encode(few))
    replaced = {} if opaque else grafts(replay.old, replay.new, few, few_draws)
    permuted = permutation_changes(old, new, tasks, few_labels, few_draws, seed=seed)
    found = {}
    for at, task in enumerate(tasks):
        first, second, known = scores[0][:, at], scores[1][:, at], labels[:, at]
        chosen = _attributed(few_labels[:, at], attributed_rows, seed)
        features, groups = (
            attribution_changes(old, new, task, few_draws, chosen) if len(chosen) and not opaque else ((), ())
        )
        ne, auc = _paired(first, second, known, rows.clusters, seed=seed, replicates=replicates)
        found[task] = TaskChange(
            task=task,
            rows=int((known >= 0).sum()),
            positives=int((known == 1).sum()),
            shift=score_shift(first, second) if len(rows) else None,
            ne=ne,
            auc=auc,
            slices=_slice_changes(first, second, known, slices, rows.clusters, draws),
            pipelines=pipelines.get(task),
            periods=periods.get(task),
            grafts=replaced.get(task, ()),
            permutation=permuted.get(task, ()),
            features=features,
            groups=groups,
            days=_day_changes(first, second, known, rows.ts, draws),
        )
    return ModelChange(
        old=replay.old.name,
        new=replay.new.name,
        how=replay.how,
        matched=0 if replay.how == "not matched" else len(rows),
        old_rows=len(replay.old_rows),
        new_rows=len(replay.new_rows),
        of_matched=0 if replay.how == "not matched" else replay.of_matched or len(rows),
        of_old_rows=replay.of_old or len(replay.old_rows),
        of_new_rows=replay.of_new or len(replay.new_rows),
        examined=len(few),
        baseline=BASELINE,
        tasks=found,
        notes=(
            *replay.notes,
            *_other_tasks(replay),
            *(f"{OTHER_CODE.format(name)}: it is scored by its exported graph" for name in opaque),
        ),
    )


def score_shift(old: Float64s, new: Float64s) -> ScoreShift:
    """How calibrated logits [N] of the old side became those of the new one."""
    moved = new - old
    varies = min(np.ptp(old), np.ptp(new)) > 0
    return ScoreShift(
        mean=float(moved.mean()),
        deviation=float(moved.std()),
        probability_old=float(special.expit(old).mean()),
        probability_new=float(special.expit(new).mean()),
        rank_correlation=float(stats.spearmanr(old, new).statistic) if varies else None,
    )


def slices_of(spec: Spec, rows: ReplayRows) -> dict[str, NDArray[np.str_]]:
    """The slices of the evaluation, from values in the clear: by position, traffic, missing numbers, and as declared."""
    names = [name for name, kind in rows.values.schema.items() if kind == pl.Float32]
    numbers = rows.values.select(pl.col(names).fill_null(np.nan)).to_numpy() if names else np.zeros((len(rows), 0))
    found = {
        name: np.asarray(of, np.str_)
        for name, of in standard_slices(rows.position, rows.random, numbers, names).items()
    }
    for declared in spec.evaluation.slices:
        if declared.feature not in rows.values.columns:
            continue
        values = rows.values[declared.feature]
        if declared.edges:
            found[declared.title] = interval_slices(values.fill_null(np.nan).to_numpy(), declared.edges)
        elif values.dtype == pl.String:
            found[declared.title] = values.fill_null(MISSING).to_numpy().astype(np.str_)
    return found


def _as_in_new(replay: Replay) -> NDArray[np.int64]:
    """Users of the old side's rows by the new side's codes, as far as matched rows tell: another key gives others."""
    codes = replay.old_rows.clusters
    known, first = np.unique(replay.old_matched.clusters, return_index=True)
    named = replay.new_matched.clusters[first]
    if not len(known):
        return codes
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.where((known[place] == codes) & (codes >= 0) & (named[place] >= 0), named[place], codes)


def _labels(rows: ReplayRows, tasks: tuple[str, ...]) -> NDArray[np.int8]:
    """[N, T]."""
    return np.column_stack([rows.label(task) for task in tasks]) if tasks else np.zeros((len(rows), 0), np.int8)


def _attributed(labels: Integers, count: int, seed: int) -> NDArray[np.intp]:
    """Places of rows with a label, in a random choice."""
    known = np.flatnonzero(labels >= 0)
    if len(known) <= count:
        return known
    return np.sort(np.random.default_rng(seed).choice(known, count, replace=False))


def _paired(
    old: Float64s, new: Float64s, labels: Integers, users: Integers, *, seed: int, replicates: int
) -> tuple[Interval | None, Interval | None]:
    """Differences in NE and in AUC."""
    if len(np.unique(labels[labels >= 0])) < 2:
        return None, None
    draws = [resampled(own, labels, users, seed=seed, replicates=replicates) for own in (old, new)]
    difference = draws[1] - draws[0]
    return interval(difference[:, METRICS.index("NE")]), interval(difference[:, METRICS.index("AUC")])


def _slice_changes(
    old: Float64s,
    new: Float64s,
    labels: Integers,
    slices: Mapping[str, NDArray[np.str_]],
    users: Integers,
    draws: Resampling,
) -> tuple[SliceChange, ...]:
    both = zip(*(slice_metrics(scores, labels, slices, users) for scores in (old, new)), strict=True)
    found = []
    for first, second in both:
        rows = np.flatnonzero(slices[first.dimension] == first.value)
        found.append(
            SliceChange(
                dimension=first.dimension, value=first.value, rows=first.rows, positives=first.positives,
                old=first.oe, new=second.oe, ne=_entropies_within(old, new, labels, rows, draws)[2],
            )
        )  # fmt: skip
    return tuple(found)


def _day_changes(
    old: Float64s, new: Float64s, labels: Integers, ts: NDArray[np.int64], draws: Resampling
) -> tuple[DayChange, ...]:
    days = ts.astype("datetime64[us]").astype("datetime64[D]")
    found = []
    for day in np.unique(days[labels >= 0]):
        rows = np.flatnonzero((days == day) & (labels >= 0))
        first, second, change = _entropies_within(old, new, labels, rows, draws)
        found.append(
            DayChange(
                day=str(day), rows=len(rows), positives=int((labels[rows] == 1).sum()), old=first, new=second, change=change,
            )
        )  # fmt: skip
    return tuple(found)


def _entropies_within(
    old: Float64s, new: Float64s, labels: Integers, rows: NDArray[np.intp], draws: Resampling
) -> tuple[Interval | None, Interval | None, Interval | None]:
    """NE of both sides on some rows, and the difference; None where these have one class."""
    if len(np.unique(labels[rows][labels[rows] >= 0])) < 2:
        return None, None, None
    found = entropies([old[rows], new[rows]], labels[rows], draws.take(rows))
    return interval(found[:, 0]), interval(found[:, 1]), interval(found[:, 1] - found[:, 0])


def _other_tasks(replay: Replay) -> list[str]:
    own = {side.name: set(side.layout.tasks) - set(replay.tasks) for side in (replay.old, replay.new)}
    return [f"only {name} has the tasks {', '.join(sorted(tasks))}" for name, tasks in own.items() if tasks]
