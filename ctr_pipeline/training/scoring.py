"""Scores of a whole split, and the validation metric that chooses the epoch."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.losses.multi_task import TaskObjectives
from ctr_pipeline.ranker.model import Ranker
from ctr_pipeline.training.dataloader import gather, to_device
from ctr_pipeline.training.distributed import ProcessGroup

ROWS = 16384
"""Rows scored at a time."""


def _scored(
    model: Ranker,
    split: PackedSplit,
    group: ProcessGroup,
    check: Callable[[], None],
    at_position: Sequence[bool],
    *,
    branches: bool = False,
) -> Iterator[tuple[NDArray[np.int64], list[Tensor], Tensor]]:
    """Row numbers, logits and labels of this process's share of ``split``, in float32 and evaluation mode.

    ``at_position``: for each of the logits whether they are with the logged position; else as the model is served, where
    it is unknown. With ``branches`` the logits are those of each branch by itself, with the logged position.
    """
    first, end = group.shard.interval(len(split))
    was_training = model.training
    model.eval()
    try:
        for start in range(first, end, ROWS):
            check()
            rows = np.arange(start, min(end, start + ROWS))
            batch = to_device(gather(split, rows), group.device)
            with torch.no_grad():
                inputs = model.encode(batch.numeric, batch.ids)
                hidden = model.hidden(inputs)
                if branches:
                    yield rows, model.branch_logits(hidden, replace(inputs, position=batch.position)), batch.labels
                    continue
                positions = (batch.position if logged else None for logged in at_position)
                yield rows, [model.score(hidden, replace(inputs, position=at)) for at in positions], batch.labels
    finally:
        model.train(was_training)


def validate(
    model: Ranker, objectives: TaskObjectives, split: PackedSplit, group: ProcessGroup, check: Callable[[], None]
) -> tuple[list[float | None], list[float | None]]:
    """Unweighted log loss and normalised entropy of each task (He et al., ADKDD 2014), whatever its training loss.

    Args:
        model: The ranker.
        objectives: The tasks' objectives.
        split: Rows to validate on.
        group: The processes; each scores a share of the rows.
        check: Called between batches; raises to stop.

    Returns:
        Log loss and log loss / entropy of the split's own positive rate for each task; None for a task without
        known labels, and no entropy where the known labels are all equal.
    """
    empty = torch.zeros((0, len(model.tasks)), device=group.device)
    # A process without rows takes part too: no rows give sums of the right shape.
    sums = objectives.validation_sums(empty, empty.to(torch.int8))
    for _, [logits], labels in _scored(model, split, group, check, [True]):
        sums = [total + part for total, part in zip(sums, objectives.validation_sums(logits, labels), strict=True)]
    metrics = objectives.validation_metrics([group.sum(total) for total in sums])
    return [loss for loss, _ in metrics], [relative for _, relative in metrics]


def validate_branches(
    model: Ranker, objectives: TaskObjectives, split: PackedSplit, group: ProcessGroup, check: Callable[[], None]
) -> list[list[float | None]]:
    """The normalised entropy of each task by each branch alone, with the logged position, as :func:`validate` has it.

    Returns:
        [K][T], empty for a model without branches.
    """
    empty = torch.zeros((0, len(model.tasks)), device=group.device)
    sums = [objectives.validation_sums(empty, empty.to(torch.int8)) for _ in model.branches]
    for _, found, labels in _scored(model, split, group, check, [], branches=True) if model.branches else ():
        sums = [
            [total + part for total, part in zip(own, objectives.validation_sums(logits, labels), strict=True)]
            for own, logits in zip(sums, found, strict=True)
        ]
    metrics = [objectives.validation_metrics([group.sum(total) for total in own]) for own in sums]
    return [[relative for _, relative in own] for own in metrics]


def write_scores(
    folder: Path, name: str, model: Ranker, split: PackedSplit, group: ProcessGroup, check: Callable[[], None]
) -> None:
    """Write float32 logits [N, T] of ``split`` into ``folder``, rows in the order of the split's arrays.

    ``<name>.npy`` as the model is served, and ``<name>_logged_position.npy`` with the logged position; without an effect of
    the position there is no such file.
    """
    modes = {folder / f"{name}.npy": False}
    logged = folder / f"{name}_logged_position.npy"
    if model.position is not None:
        modes[logged] = True
    elif group.is_first:
        logged.unlink(missing_ok=True)
    shape = (len(split), len(model.tasks))
    if group.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        for path in modes:
            np.save(path, np.zeros((0, shape[1]), dtype=np.float32))
            if shape[0]:
                np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()
    group.barrier()
    if shape[0]:
        files = [np.lib.format.open_memmap(path, mode="r+") for path in modes]
        for rows, found, _ in _scored(model, split, group, check, list(modes.values())):
            for scores, logits in zip(files, found, strict=True):
                scores[rows[0] : rows[-1] + 1] = logits.cpu().numpy()
        for scores in files:
            scores.flush()
    group.barrier()


def write_position_effect(path: Path, model: Ranker, train: PackedSplit) -> None:
    """Write how likely an outcome is at each position, relative to the first, as JSON; none without such an effect.

    The mean over the contexts of at most :data:`ROWS` training rows, evenly spread.
    """
    path.unlink(missing_ok=True)
    if model.position is None:
        return
    rows = np.linspace(0, len(train) - 1, min(len(train), ROWS)).astype(np.int64)
    ids = gather(train, rows).ids.to(next(model.parameters()).device)
    with torch.no_grad():
        relative = model.position.relative(ids).cpu().numpy()
    content = {
        "kind": model.position.kind,
        "shares": [round(float(share), 6) for share in model.position.shares],
        "relative": {
            model.tasks[task]: [round(float(value), 6) for value in relative[:, column]]
            for column, task in enumerate(model.position.tasks)
        },
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
