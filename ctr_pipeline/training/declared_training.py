"""The training that a job declares, built anew beside the one that runs, and what each of its stages gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.datasets import PackedDataset, PackedSplit
from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.loss_oracle import has_formula, oracle_means
from ctr_pipeline.gradients.adapters.update_oracle import (
    UpdateInput,
    adamw_state,
    adamw_update,
    rowwise_adagrad_state,
    rowwise_adagrad_update,
)
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training.dataloader import Shard
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.lr_schedule import learning_rate_factor
from ctr_pipeline.training.optimizers import RowwiseAdagrad
from ctr_pipeline.training.plan import known_outcomes, plan_training
from ctr_pipeline.training.step import StepState
from ctr_pipeline.training.step_recorder import Outputs, SparseGradient, gradient_of, record_outputs


def builder_of(job: TrainingJob) -> Callable[[Path], Trainer]:
    """Builds the training of a job once more, on the CPU and in this process alone, from the dataset that it learnt from.

    Raises:
        DatasetError: the dataset is not there any more.
    """
    dataset = PackedDataset.open(job.dataset).of_tasks(job.tasks)
    train = dataset.splits["train"]
    plan = plan_training(job.training, job.model, len(train), known_outcomes(train.labels))

    def build(output: Path) -> Trainer:
        own = job.model_copy(update={"output": output, "mlflow": None, "device": "cpu"})
        group = ProcessGroup(Shard(), torch.device("cpu"))
        return Trainer(own, dataset, plan, group, lambda: 0.0, lambda: False)

    return build


@dataclass(slots=True)
class DeclaredTraining:
    """A training as its job declares it, that computes single stages of another one's steps once more.

    Attributes:
        trainer: It, as before its first step.
        outputs: What the parts of its model computed in the last :meth:`forward`.
        given: What they were given, where that were tensors alone.
    """

    trainer: Trainer
    outputs: Outputs = field(default_factory=list)
    given: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    _recording: bool = False

    @classmethod
    def of(cls, job: TrainingJob, output: Path) -> "DeclaredTraining":
        """That of ``job``, from the packed files on disk.

        Raises:
            DatasetError: the dataset is not there any more.
        """
        made = cls(builder_of(job)(output))
        record_outputs(made.state.model, made.outputs, lambda: made._recording, made.given)
        return made

    @property
    def state(self) -> StepState:
        """What its steps read."""
        return self.trainer.state

    @property
    def rows(self) -> PackedSplit:
        """The rows on disk."""
        return self.trainer.train

    def order(self, count: int, epoch: int, batch: int) -> NDArray[np.int64]:
        """Rows of a batch of ``count`` rows in all: of a permutation that follows from seed and epoch, batches of equal size to
        within one row.
        """
        size = self.trainer.plan.batch_size
        generator = torch.Generator().manual_seed((self.trainer.job.seed * 1_000_003 + epoch) % 2**63)
        batches = (count + size - 1) // size
        found: NDArray[np.int64] = torch.randperm(count, generator=generator).numpy()
        return found[count * batch // batches : count * (batch + 1) // batches]

    def take_over(self, other: StepState) -> None:
        """Takes the weights and buffers of another training, those that it has itself."""
        with torch.no_grad():
            for own, theirs in (
                (self.state.model.named_parameters(), other.model.named_parameters()),
                (self.state.model.named_buffers(), other.model.named_buffers()),
            ):
                given = dict(theirs)
                for name, value in own:
                    if name in given and given[name].shape == value.shape:
                        value.copy_(given[name])

    def forward(self, batch: BatchView, random: Tensor) -> Tensor:
        """[B, T] logits with their graph, with the generator of torch in the state ``random``."""
        self.outputs.clear()
        for parameter in self.state.model.parameters():
            parameter.grad = None
        self._recording = True
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(random)
            logits = self.state.forward(batch)
        self._recording = False
        return logits

    def gradients(self, logits: Tensor, of_logits: Tensor) -> Mapping[str, Tensor | SparseGradient]:
        """Gradients by parameter, from the graph of ``logits`` and their own gradient."""
        torch.autograd.backward(logits, of_logits)
        found = {name: gradient_of(p) for name, p in self.state.model.named_parameters()}
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    def loss(self, logits: Tensor, batch: BatchView, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, [T] each task's mean and [B, T] the gradient at the logits.

        By formulas in float64 where the objectives have them, else by the objectives themselves.

        Args:
            logits: [B, T] given.
            batch: Labels, weights and ages.
            weights: [T] weights of the tasks.
        """
        own = logits.detach().double().requires_grad_()
        job, tasks = self.trainer.job, self.trainer.dataset.layout.tasks
        sections = [job.objectives.get(task, Binary()) for task in tasks]
        counts = self.state.objectives.known_counts(batch.labels, batch.delays)
        if batch.delays is None and all(has_formula(section) for section in sections):
            smoothing = job.training.label_smoothing
            found = oracle_means(sections, own, batch.labels, batch.weights, smoothing, self.trainer._rates)
            means = torch.stack([value for value in found if value is not None])
        else:
            sums = self.state.objectives.task_sums(own, batch.labels, batch.weights.double(), batch.delays)
            means = sums / counts.clamp_min(1)
        total = (means * weights.double()).sum()
        (gradient,) = torch.autograd.grad(total, own)
        return total.detach(), means.detach(), gradient

    def task_weights(self, record: StepRecord) -> Tensor:
        """[T] weights of the tasks in the loss of a step: the declared ones where they stand still, else those of the step."""
        own = self.state.loss_weights.detach()
        return own.new_tensor(list(record.task_weights.values())) if record.task_weights else own.clone()

    def settings(self, step: int) -> dict[str, tuple[str, dict[str, Any]]]:
        """By parameter the type of its optimizer and the settings of its group in ``step``."""
        factor = learning_rate_factor(step, self.trainer.steps, self.trainer.job.training.warmup_fraction)
        names = {id(p): name for name, p in self.state.model.named_parameters()}
        return {
            names[id(p)]: (
                type(optimizer).__name__,
                {key: value for key, value in group.items() if key != "params"} | {"lr": peak * factor},
            )
            for optimizer, peak in zip(self.state.optimizers, self.state.peaks, strict=True)
            for group in optimizer.param_groups
            for p in group["params"]
        }

    def updated(
        self, name: str, gradient: Tensor | SparseGradient, state: Mapping[str, Any], by: tuple[str, Mapping[str, Any]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A parameter, and its optimizer's state of it, after the update from its weights here, by formulas in float64.

        Of a sparse gradient its rows alone.

        Args:
            name: The parameter.
            gradient: What its optimizer received.
            state: The optimizer's state of it before.
            by: Type of the optimizer, and the settings of the parameter's group.
        """
        before = self.state.model.get_parameter(name).detach()
        kind, settings = by
        if kind != RowwiseAdagrad.__name__:
            assert isinstance(gradient, Tensor)
            given = UpdateInput(before=before, gradient=gradient, state=state, settings=settings)
            return adamw_update(given).to(before.dtype), adamw_state(given)
        rows, values = (
            (gradient.rows, gradient.values) if isinstance(gradient, SparseGradient)
            else (torch.arange(len(gradient)), gradient)
        )  # fmt: skip
        own = {key: value[rows] for key, value in state.items() if isinstance(value, Tensor) and value.ndim}
        given = UpdateInput(before=before[rows], gradient=values, state=own, settings=settings)
        return rowwise_adagrad_update(given).to(before.dtype), rowwise_adagrad_state(given)
