"""The calibrators of all tasks, as a spec describes them."""

from collections.abc import Sequence

import numpy as np

from ctr_pipeline.calibration.calibrator import CalibrationError, Calibrator, fit_calibrator
from ctr_pipeline.calibration.field_offsets import fit_offsets
from ctr_pipeline.calibration.labelled import Integers, Reals
from ctr_pipeline.features.layout import Layout
from ctr_pipeline.spec.calibration import CalibratorSection


def fit_calibrators(
    section: CalibratorSection,
    tasks: Sequence[str],
    logits: Reals,
    labels: Integers,
    *,
    layout: Layout | None = None,
    ids: Integers | None = None,
) -> dict[str, Calibrator]:
    """A calibrator for each task, of the kind that the spec names, with offsets where it declares a field for them.

    Args:
        section: Section ``calibration`` of the spec.
        tasks: [T] names of the tasks.
        logits: [N, T] uncalibrated.
        labels: [N, T] in {0, 1, -1}; rows with -1 are left out.
        layout: Meaning of the columns of ``ids``; only for ``offsets_by``.
        ids: [N, F] embedding rows; only for ``offsets_by``.

    Raises:
        ScoreError: a label is none of 0, 1, -1, or a labelled row's logit is not finite.
        CalibrationError: nothing is registered under the kind, the calibrator that it fitted turns the order of the rows
            around, or the rows do not have the field that ``offsets_by`` names.
    """
    fitted = {}
    for column, task in enumerate(tasks):
        fitted[task] = fit_calibrator(section, logits[:, column], labels[:, column])
        known = np.unique(logits[labels[:, column] >= 0, column])
        calibrated = fitted[task].apply(known)
        if not (np.isfinite(calibrated).all() and np.all(np.diff(calibrated) >= 0)):
            raise CalibrationError(
                f"calibrator {section.kind!r}, fitted for task {task!r}, does not keep the order of the rows or gives "
                "values that are not finite. Correct it, or choose another `kind` in the section `calibration`."
            )
    name = section.offsets_by
    if name is None:
        return fitted
    places = {} if layout is None else dict(zip((one.name for one in layout.ids), layout.id_places, strict=True))
    if ids is None or name not in places:
        raise CalibrationError(
            f"`calibration.offsets_by` names {name!r}, and the rows given have the ids of {', '.join(places) or 'no feature'}. "
            "Pack the dataset again by the same spec."
        )
    return {
        task: fit_offsets(
            fitted[task], logits[:, column], labels[:, column], feature=name, column=places[name].start, ids=ids
        )
        for column, task in enumerate(tasks)
    }
