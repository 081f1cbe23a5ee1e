"""The objectives of all tasks at once, and one number to minimise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.losses.protocol import Objective
from ctr_pipeline.losses.registry import build_objective
from ctr_pipeline.spec.objectives import ObjectiveSection


@dataclass(frozen=True, slots=True)
class _Block:
    """Tasks that share an objective, by column."""

    objective: Objective
    columns: tuple[int, ...]


class TaskObjectives:
    """The objectives of all tasks; itself a :class:`~ctr_pipeline.losses.protocol.Loss` of all columns.

    Tasks with equal objectives are computed together. Where all are equal, the objective receives the tensors as they
    are.

    Args:
        sections: The objective of each task, in the order of the columns.

    Raises:
        LossError: an objective or its loss is not registered in this process.
    """

    def __init__(self, sections: Sequence[ObjectiveSection]) -> None:
        distinct = [section for n, section in enumerate(sections) if section not in sections[:n]]
        self._blocks = [
            _Block(build_objective(section), tuple(n for n, other in enumerate(sections) if other == section))
            for section in distinct
        ]
        self._of_column = {column: block for block in self._blocks for column in block.columns}

    def known_counts(self, labels: Tensor) -> Tensor:
        """[T] number of known labels [B, T] of each task."""
        return self._by_block(lambda objective, own: objective.known_counts(*own), labels)

    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[T] weighted sums of each task's training loss over its known labels."""
        return self._by_block(lambda objective, own: objective.loss.task_sums(*own), logits, labels, weights)

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor | None:
        """[B, T] derivative of the sums by the logits; 0 for tasks without a formula, None when no task has one."""
        found = False

        def gradient(objective: Objective, own: Sequence[Tensor]) -> Tensor:
            nonlocal found
            value = objective.loss.logit_gradient(*own)
            found = found or value is not None
            return torch.zeros_like(own[0]) if value is None else value

        joined = self._by_block(gradient, logits, labels, weights)
        return joined if found else None

    def validation_sums(self, logits: Tensor, labels: Tensor) -> list[Tensor]:
        """For each block of tasks the sums [S, T'] of its objective, to be added up and given to the metrics."""
        return [block.objective.validation_sums(*_own(block, (logits, labels))) for block in self._blocks]

    def validation_metrics(self, sums: Sequence[Tensor]) -> list[tuple[float | None, float | None]]:
        """Mean loss and relative loss of each task, from the sums of :meth:`validation_sums`."""
        found = {
            column: block.objective.validation_metric(values)
            for block, own in zip(self._blocks, sums, strict=True)
            for column, values in zip(block.columns, own.T.tolist(), strict=True)
        }
        return [found[column] for column in range(len(found))]

    def starting_rates(self, labels: NDArray[np.int8]) -> list[float]:
        """For each task the constant from which an untrained model starts, from all training labels [N, T]."""
        return [self._of_column[column].objective.starting_rate(labels[:, column]) for column in range(labels.shape[1])]

    def _by_block(self, function: Callable[[Objective, Sequence[Tensor]], Tensor], *tensors: Tensor) -> Tensor:
        """``function`` of each block's columns, joined in the order of the tasks along the last axis."""
        if len(self._blocks) == 1:
            return function(self._blocks[0].objective, tensors)
        columns: dict[int, Tensor] = {}
        for block in self._blocks:
            values = function(block.objective, _own(block, tensors))
            columns |= {column: values[..., n] for n, column in enumerate(block.columns)}
        return torch.stack([columns[column] for column in range(len(columns))], dim=-1)


def multi_task_loss(sums: Tensor, counts: Tensor, loss_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its parts.

    Args:
        sums: [T] this process's sums of each task's loss over its known labels.
        counts: [T] known labels over all processes. A task without any contributes exactly 0.
        loss_weights: [T] weights of the tasks.

    Returns:
        The scalar to minimise and [T] the mean loss of each task. With several processes both are shares: they
        become the whole when summed over the processes.
    """
    means = sums / counts.clamp_min(1).to(sums.dtype)
    return (means * loss_weights).sum(), means


def _own(block: _Block, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The block's columns of tensors [B, T]."""
    whole = block.columns == tuple(range(tensors[0].shape[1]))
    # Columns by slice and stack: the backward pass of an index is not deterministic on every device.
    return tensors if whole else [torch.stack([t[:, column] for column in block.columns], dim=1) for t in tensors]
