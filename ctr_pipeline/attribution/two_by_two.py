"""Both models on both data: what of a difference comes of the model, and what of the data."""

import numpy as np

from ctr_pipeline.attribution.model_change import TwoByTwo
from ctr_pipeline.attribution.resampling import Resampling, entropies, interval_of
from ctr_pipeline.attribution.trained_side import ReplayRows, TrainedSide
from ctr_pipeline.calibration.labelled import Float64s


def two_by_two(
    old: TrainedSide,
    new: TrainedSide,
    old_rows: ReplayRows,
    new_rows: ReplayRows,
    draws: tuple[Resampling, Resampling],
) -> dict[str, TwoByTwo]:
    """By task of both sides that has both classes in both data, the four NEs and the effects.

    Args:
        old: The old model.
        new: The new model.
        old_rows: The old data, with its labels.
        new_rows: The new data.
        draws: Of the users of both, with weights in common.
    """
    tasks = [task for task in new.layout.tasks if task in old.layout.tasks]
    on_old = [model.logits(old_rows, tasks) for model in (old, new)]
    on_new = [model.logits(new_rows, tasks) for model in (old, new)]
    found = {}
    for at, task in enumerate(tasks):
        of_old = entropies([logits[:, at] for logits in on_old], old_rows.label(task), draws[0])
        of_new = entropies([logits[:, at] for logits in on_new], new_rows.label(task), draws[1])
        if np.isnan(of_old[0]).any() or np.isnan(of_new[0]).any():
            continue
        labels = old_rows.label(task), new_rows.label(task)
        found[task] = effects_of(
            of_old, of_new,
            rows=[int((own >= 0).sum()) for own in labels], positives=[int((own == 1).sum()) for own in labels],
            absent_in_old=new.absent(old_rows), absent_in_new=old.absent(new_rows),
        )  # fmt: skip
    return found


def effects_of(
    on_old: Float64s,
    on_new: Float64s,
    *,
    rows: list[int],
    positives: list[int],
    absent_in_old: tuple[str, ...] = (),
    absent_in_new: tuple[str, ...] = (),
) -> TwoByTwo:
    """The effects from the draws [R + 1, 2] of the NE of the old and the new model, on the old data and on the new.

    Args:
        on_old: On the old data.
        on_new: On the new data.
        rows: Labelled rows of the old and of the new data.
        positives: Positive ones.
        absent_in_old: As in :class:`~ctr_pipeline.attribution.model_change.TwoByTwo`.
        absent_in_new: As there.
    """
    (old_on_old, new_on_old), (old_on_new, new_on_new) = on_old.T, on_new.T
    return TwoByTwo(
        old_on_old=interval_of(old_on_old),
        old_on_new=interval_of(old_on_new),
        new_on_old=interval_of(new_on_old),
        new_on_new=interval_of(new_on_new),
        total=interval_of(new_on_new - old_on_old),
        model=interval_of(((new_on_old - old_on_old) + (new_on_new - old_on_new)) / 2),
        data=interval_of(((old_on_new - old_on_old) + (new_on_new - new_on_old)) / 2),
        interaction=interval_of((new_on_new - old_on_new) - (new_on_old - old_on_old)),
        rows_old=rows[0],
        rows_new=rows[1],
        positives_old=positives[0],
        positives_new=positives[1],
        absent_in_old=absent_in_old,
        absent_in_new=absent_in_new,
    )
