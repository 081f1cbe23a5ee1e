"""The objectives of all tasks at once, and one number to minimise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.losses.binary_objective import BinaryObjective
from ctr_pipeline.losses.delayed_feedback import open_labels
from ctr_pipeline.losses.label_smoothing import SmoothedBinaryCrossEntropy
from ctr_pipeline.losses.protocol import DelayedLoss, Delays, Objective
from ctr_pipeline.losses.registry import build_objective
from ctr_pipeline.spec.objectives import Binary, ObjectiveSection

SettledDelays: TypeAlias = Sequence[NDArray[np.float64]]
"""For each task the delays of its settled outcomes, in seconds."""


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
        settled: How long the outcomes of settled labels took, for losses that learn from open ones too; without it
            these see settled labels only.
        smoothing: How far the labels of tasks with the binary cross-entropy are drawn towards their base rate; below 1/2.
        rates: [T] the base rates; needed with ``smoothing`` only.

    Raises:
        LossError: an objective or its loss is not registered in this process.
    """

    def __init__(
        self,
        sections: Sequence[ObjectiveSection],
        settled: SettledDelays | None = None,
        smoothing: float = 0.0,
        rates: Sequence[float] = (),
    ) -> None:
        distinct = [section for n, section in enumerate(sections) if section not in sections[:n]]
        self._blocks = []
        for section in distinct:
            columns = tuple(n for n, other in enumerate(sections) if other == section)
            objective = build_objective(section)
            if smoothing and section == Binary():
                own = SmoothedBinaryCrossEntropy(smoothing, [rates[n] for n in columns])
                self._blocks.append(_Block(BinaryObjective(own), columns))
            elif settled is not None and isinstance(objective.loss, DelayedLoss):
                # Each task has its own delays.
                self._blocks += [_Block(BinaryObjective(objective.loss.fit(settled[n])), (n,)) for n in columns]
            else:
                self._blocks.append(_Block(objective, columns))
        self._of_column = {column: block for block in self._blocks for column in block.columns}

    def known_counts(self, labels: Tensor, delays: Delays | None = None) -> Tensor:
        """[T] number of labels [B, T] of each task that its loss looks at."""

        def counts(objective: Objective, own: Sequence[Tensor]) -> Tensor:
            known = objective.known_counts(own[0])
            if len(own) == 1 or not isinstance(objective.loss, DelayedLoss):
                return known
            return known + open_labels(own[0], Delays(*own[1:])).sum(dim=0)

        return self._by_block(counts, labels, *(delays or ()))

    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor, delays: Delays | None = None) -> Tensor:
        """[T] weighted sums of each task's training loss over the labels that it looks at."""

        def sums(objective: Objective, own: Sequence[Tensor]) -> Tensor:
            logits, labels, weights = own[:3]
            if len(own) > 3 and isinstance(objective.loss, DelayedLoss):
                return objective.loss.task_sums(logits, labels, weights, Delays(*own[3:]))
            return objective.loss.task_sums(logits, labels, weights)

        return self._by_block(sums, logits, labels, weights, *(delays or ()))

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


def settled_delays(labels: NDArray[np.int8], delay: NDArray[np.float32]) -> SettledDelays:
    """From the arrays [N, T] of the training rows, for each task how long the outcomes of its settled labels took."""
    found = []
    for task in range(labels.shape[1]):
        known = delay[labels[:, task] == 1, task]
        found.append(known[np.isfinite(known)].astype(np.float64))
    return found


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
