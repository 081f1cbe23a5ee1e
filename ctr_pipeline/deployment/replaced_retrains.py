"""The retrain of a day that another one of the same day took the place of, kept to be compared with.

Code or spec are changed, and the same day is trained again: without the model before, nobody could say why the new one is
worse. One retrain a day is kept: the promoted one, where one of them was.
"""

import shutil
from pathlib import Path

from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.paths import DataRoot, RetrainPaths

TRAINED_ON = ("train", "refit", "validation")
"""Splits whose arrays are not kept: a comparison needs those that were calibrated on and tested."""

NOT_COMPARED = ("checkpoint.pt", "checkpoint.pt.sha256", "before_refit.pt")
"""Files of the training that are not kept: other states of the weights."""


def replaced_retrain(root: DataRoot, day: str) -> RetrainPaths | None:
    """The retrain of ``day`` that another one took the place of; None where there is none.

    Its dataset is that of the day where no other was packed since.
    """
    kept, own = root.replaced(day), root.retrain(day)
    if not kept.calibration.is_file():
        return None
    for dataset in (kept.dataset, own.dataset):
        found = RetrainPaths(dataset, kept.training)
        if _belong_together(found):
            return found
    return None


def set_aside_dataset(root: DataRoot, day: str) -> None:
    """Moves the dataset of a finished retrain out of the way of another one of the same day, where it is to be kept.

    Called before the dataset is removed.
    """
    own, kept = root.retrain(day), root.replaced(day)
    # The dataset of the day may be that of the one which is kept already, where the model alone was made again.
    of = own.training if _is_kept(root, own) else kept.training
    if _belong_together(RetrainPaths(own.dataset, of)):
        _move(own.dataset, kept.dataset)
        for split in TRAINED_ON:
            shutil.rmtree(kept.packed / split, ignore_errors=True)


def set_aside_training(root: DataRoot, day: str) -> None:
    """Moves the training of a finished retrain out of the way of another one, where it is to be kept.

    Called before the folder of the training is removed.
    """
    own, kept = root.retrain(day), root.replaced(day)
    if not _is_kept(root, own):
        return
    if not _belong_together(RetrainPaths(kept.dataset, own.training)):
        # What lies there is of another training, and this one's is where it was.
        shutil.rmtree(kept.dataset, ignore_errors=True)
    _move(own.training, kept.training)
    for name in NOT_COMPARED:
        (kept.training / name).unlink(missing_ok=True)


def _is_kept(root: DataRoot, own: RetrainPaths) -> bool:
    """Whether a finished retrain is to be kept: a promoted one before one that was not, else the later."""
    if not own.calibration.is_file():
        return False
    before = replaced_retrain(root, own.day)
    return before is None or _was_promoted(own) or not _was_promoted(before)


def _was_promoted(paths: RetrainPaths) -> bool:
    return bool(read_json(paths.release).get("promoted"))


def _belong_together(paths: RetrainPaths) -> bool:
    """Whether the dataset is the one that the training was of."""
    packed = read_json(paths.packed_manifest).get("sha256")
    return packed is not None and packed == read_json(paths.provenance).get("arrays")


def _move(folder: Path, to: Path) -> None:
    shutil.rmtree(to, ignore_errors=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(to)
