"""Scores of a whole split, and the validation metric that chooses the epoch."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.masking import known_counts
from ctr_pipeline.ranker.model import Ranker
from ctr_pipeline.training.dataloader import gather, to_device
from ctr_pipeline.training.distributed import ProcessGroup

ROWS = 16384
"""Rows scored at a time."""


def _scored(
    model: Ranker, split: PackedSplit, group: ProcessGroup, check: Callable[[], None]
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Row numbers, logits and labels of this process's stretch of ``split``, in float32 and evaluation mode."""
    first, end = group.shard.stretch(len(split))
    was_training = model.training
    model.eval()
    try:
        for start in range(first, end, ROWS):
            check()
            rows = np.arange(start, min(end, start + ROWS))
            batch = to_device(gather(split, rows), group.device)
            with torch.no_grad():
                yield rows, model(batch.numeric, batch.ids), batch.labels
    finally:
        model.train(was_training)


def validate(
    model: Ranker, split: PackedSplit, group: ProcessGroup, check: Callable[[], None]
) -> tuple[list[float | None], list[float | None]]:
    """Unweighted log loss and normalised entropy of each task (He et al., ADKDD 2014).

    Args:
        model: The ranker.
        split: Rows to validate on.
        group: The processes; each scores a stretch.
        check: Called between batches; raises to stop.

    Returns:
        Log loss and log loss / entropy of the split's own positive rate for each task; None for a task without
        known labels, and no entropy where the known labels are all equal.
    """
    tasks = len(model.tasks)
    sums = torch.zeros((3, tasks), dtype=torch.float64, device=group.device)
    for _, logits, labels in _scored(model, split, group, check):
        sums[0] += WeightedBinaryCrossEntropy().task_sums(
            logits.double(), labels, torch.ones_like(logits, dtype=torch.float64)
        )
        sums[1] += known_counts(labels)
        sums[2] += (labels == 1).sum(dim=0)
    losses: list[float | None] = []
    entropies: list[float | None] = []
    for loss, count, positives in group.sum(sums).T.tolist():
        losses.append(loss / count if count else None)
        rate = positives / count if count else 0.0
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate)) if 0 < rate < 1 else 0.0
        entropies.append(loss / count / entropy if entropy else None)
    return losses, entropies


def write_scores(path: Path, model: Ranker, split: PackedSplit, group: ProcessGroup, check: Callable[[], None]) -> None:
    """Write float32 logits [N, T] of ``split`` to ``path``, rows in the order of the split's arrays."""
    shape = (len(split), len(model.tasks))
    if group.is_first:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros((0, shape[1]), dtype=np.float32))
        if shape[0]:
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()
    group.barrier()
    if shape[0]:
        scores = np.lib.format.open_memmap(path, mode="r+")
        for rows, logits, _ in _scored(model, split, group, check):
            scores[rows[0] : rows[-1] + 1] = logits.cpu().numpy()
        scores.flush()
    group.barrier()
