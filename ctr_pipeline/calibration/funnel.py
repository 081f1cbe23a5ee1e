"""Calibrated logits of all tasks: a step of a funnel is never likelier than the one before it."""

from collections.abc import Sequence

import numpy as np

from ctr_pipeline.calibration.calibrator import Calibrator
from ctr_pipeline.calibration.field_offsets import OffsetCalibrator
from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals


def calibrated_logits(
    calibrators: Sequence[Calibrator], parents: Sequence[int], logits: Reals, ids: Integers
) -> Float64s:
    """Each task's logits as its calibrator has them, with the offset of the row's value, but at most those of its parent.

    Calibrators of different tasks are fitted on different rows; where they disagree on a row, the later step gives way.

    Args:
        calibrators: [T] one for each task.
        parents: [T] index of each task's parent, which stands before it; -1 for none.
        logits: [N, T] uncalibrated.
        ids: [N, F] embedding rows, in the columns that the calibrators were fitted on.

    Returns:
        [N, T].
    """
    calibrated = np.column_stack([own.apply(logits[:, task]) for task, own in enumerate(calibrators)])
    for task, own in enumerate(calibrators):
        if isinstance(own, OffsetCalibrator):
            calibrated[:, task] += own.offsets_of(ids)
    for task, parent in enumerate(parents):
        if parent >= 0:
            calibrated[:, task] = np.minimum(calibrated[:, task], calibrated[:, parent])
    return calibrated
