"""The tasks' gradients on the weights that they share, over many rows of a trained model."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedDataset, PackedSplit
from ctr_pipeline.losses.multi_task import TaskObjectives
from ctr_pipeline.ranker import load_ranker
from ctr_pipeline.ranker.model import Ranker
from ctr_pipeline.ranker.sharing import shared_parameters
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training.dataloader import gather, to_device
from ctr_pipeline.training.job_spec import TrainingJob

ROWS = 262_144
"""At 0.1 % positives some hundreds of each outcome."""
BLOCKS = 16
PIECE = 2048
"""Rows of a backward pass."""
COLUMNS = 2**16
"""Weights of which the products are taken at a time, in double precision."""


def task_gradient_products(job: TrainingJob, rows: int = ROWS) -> tuple[NDArray[np.float64], int, int]:
    """As :func:`block_products`, of the finished model of a job on rows that are spread over its training rows.

    Returns:
        The products, the number of rows, and the number of shared weights; no products where nothing dense is shared.

    Raises:
        DatasetError: the dataset is not there any more.
        RankerError: the model is not there any more.
    """
    dataset = PackedDataset.open(job.dataset).of_tasks(job.tasks)
    model = load_ranker(job.output / "model.pt", dataset.layout, job.model)
    objectives = TaskObjectives([job.objectives.get(task, Binary()) for task in dataset.layout.tasks])
    train = dataset.splits["train"]
    chosen = np.unique(np.linspace(0, len(train) - 1, min(rows, len(train))).astype(np.int64))
    # By chance, so that each block has rows of all days.
    chosen = np.random.default_rng(job.seed).permutation(chosen)
    parameters = sum(parameter.numel() for parameter in shared_parameters(model).values())
    return block_products(model, objectives, train, chosen), len(chosen), parameters


def block_products(
    model: Ranker, objectives: TaskObjectives, split: PackedSplit, rows: NDArray[np.int64], blocks: int = BLOCKS
) -> NDArray[np.float64]:
    """[T, K, T, K] inner products of the tasks' gradients in blocks of rows, on the dense weights that they share.

    The gradient of a task in a block is that of the sum of its losses there over its known labels in all rows, so that the
    sum over the blocks is that of its mean loss. The model is evaluated as it scores: without dropout.

    Args:
        model: The ranker.
        objectives: The tasks' objectives.
        split: Rows that are learnt from.
        rows: Which of them.
        blocks: How many blocks K these are divided into.
    """
    shared = list(shared_parameters(model).values())
    tasks = len(model.tasks)
    if not shared:
        return np.zeros((0, 0, 0, 0))
    model.eval()
    labels = torch.from_numpy(np.asarray(split.labels[np.sort(rows)]))
    counts = objectives.known_counts(labels).clamp_min(1).double()
    width = sum(parameter.numel() for parameter in shared)
    gradients = torch.zeros(tasks, blocks, width)
    for block, own in enumerate(np.array_split(rows, blocks)):
        for start in range(0, len(own), PIECE):
            _add_gradients(model, objectives, split, own[start : start + PIECE], shared, gradients[:, block])
    flat = gradients.reshape(tasks * blocks, width)
    total = torch.zeros(tasks * blocks, tasks * blocks, dtype=torch.float64)
    for columns in torch.split(flat, COLUMNS, dim=1):
        exact = columns.double()
        total += exact @ exact.T
    scale = counts.repeat_interleave(blocks)
    products: NDArray[np.float64] = (total / scale[:, None] / scale).numpy().reshape(tasks, blocks, tasks, blocks)
    return products


def _add_gradients(
    model: Ranker, objectives: TaskObjectives, split: PackedSplit, rows: NDArray[np.int64],
    shared: Sequence[torch.nn.Parameter], total: torch.Tensor,
) -> None:  # fmt: skip
    """Adds the gradient of each task's sum of losses on ``rows`` to ``total`` [T, P]."""
    batch = to_device(gather(split, np.sort(rows)), torch.device("cpu"))
    logits = model(batch.numeric, batch.ids, batch.position)
    sums = objectives.task_sums(logits, batch.labels, batch.weights, None)
    for task, loss in enumerate(sums.unbind()):
        found = torch.autograd.grad(loss, list(shared), retain_graph=True, allow_unused=True)
        known = [torch.zeros_like(p) if g is None else g for p, g in zip(shared, found, strict=True)]
        total[task] += torch.cat([gradient.flatten() for gradient in known])
