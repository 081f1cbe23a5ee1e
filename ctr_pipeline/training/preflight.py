"""Contracts of a training in its first steps, and what is written of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.ranker_contracts import (
    SAMPLED_ROWS,
    BrokenContract,
    BuiltTraining,
    RankerContracts,
    broken_contract,
)
from ctr_pipeline.gradients.contracts.missing_values import MissingShares
from ctr_pipeline.losses.multi_task import TaskObjectives
from ctr_pipeline.ranker import Ranker
from ctr_pipeline.spec.objectives import ObjectiveSection
from ctr_pipeline.training.dataloader import to_device
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.precision import Precision

EVERY = 16
"""Steps between looks at what is missing in a batch, for as long as the training runs."""


class Preflight:
    """Checks the first steps of a run; every process calls it alike.

    Args:
        model: The ranker, as it is trained.
        layout: Its layout.
        optimizers: Those that update it.
        objectives: The tasks' objectives.
        sections: The objective of each task in the spec.
        loss_weights: [T] weights of the tasks.
        weigh: Sets them from [T] sums of losses and numbers of labels, where gradients decide on them.
        smoothing: Share of each label that is the task's base rate, ``base_rates``.
        base_rates: [T] those rates; empty without smoothing.
        forward: [B, T] logits of a batch, as a step computes them.
        precision: Arithmetic of the step.
        group: The processes.
        rows: The rows that are learnt from.
        reference: The rows of the validation; None where there is none.
        peaks: Largest learning rate of each optimizer.
        fresh: Whether the model is untrained.
        file: Where the first process writes the outcomes.
    """

    def __init__(
        self,
        *,
        model: Ranker,
        layout: Layout,
        optimizers: Sequence[torch.optim.Optimizer],
        objectives: TaskObjectives,
        sections: Sequence[ObjectiveSection],
        loss_weights: Tensor,
        weigh: Callable[[Tensor, Tensor], None] | None = None,
        smoothing: float,
        base_rates: Sequence[float],
        forward: Callable[[BatchView], Tensor],
        precision: Precision,
        group: ProcessGroup,
        rows: PackedSplit,
        reference: PackedSplit | None = None,
        peaks: Sequence[float] = (),
        fresh: bool,
        file: Path,
    ) -> None:
        built = BuiltTraining(
            model=model,
            layout=layout,
            optimizers=optimizers,
            objectives=objectives,
            sections=sections,
            loss_weights=loss_weights,
            weigh=weigh,
            rates=objectives.starting_rates(rows.labels) if fresh else (),
            forward=forward,
            smoothing=smoothing,
            base_rates=base_rates,
            scale=precision.factor,
            half=precision.name != "fp32",
            alone=group.is_single,
            peaks=peaks,
        )
        self._group, self._file = group, file
        self._contracts: RankerContracts | None = RankerContracts(built, rows, fresh, reference)
        spread = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED_ROWS)).astype(np.int64))
        self._missing = MissingShares([c.name for c in layout.numeric], np.take(rows.numeric, spread, axis=0))

    @property
    def active(self) -> bool:
        """Whether there is still something to check."""
        return self._contracts is not None

    def before(self, batch: BatchView, step: int) -> BrokenContract | None:
        """Call before each step; the contract that any process found broken."""
        if step % EVERY == 0 and (broken := self._missing_values(batch, step)) is not None:
            return broken
        if self._contracts is None:
            return None
        return self._first(self._contracts.before(to_device(batch, self._group.device), step))

    def after(self, record: StepRecord) -> BrokenContract | None:
        """Call after each step; the contract that any process found broken."""
        if self._contracts is None:
            return None
        broken = self._first(self._contracts.after(record))
        if broken is None and self._contracts.done:
            self._write()
            self._contracts = None
        return broken

    def _missing_values(self, batch: BatchView, step: int) -> BrokenContract | None:
        found = self._missing.outcome(batch.numeric.numpy(force=True))
        own = broken_contract(found, step) if found.failed else None
        return next((broken for broken in self._group.gather_objects(own) if broken is not None), None)

    def _first(self, own: BrokenContract | None) -> BrokenContract | None:
        broken = next((found for found in self._group.gather_objects(own) if found is not None), None)
        if broken is not None:
            self._write()
            self._contracts = None
        return broken

    def _write(self) -> None:
        if self._group.is_first and self._contracts is not None:
            outcomes = [outcome.to_dict() for outcome in self._contracts.outcomes]
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(outcomes, indent=1) + "\n", encoding="utf-8")
