"""Mistakes of the loop around the steps: schedules, groups, optimizer states, resumption, export; their families are only scored.

Which causes of :mod:`ctr_pipeline.gradients.triage.causes` are right names for each was decided from the fault, before any of
them was run.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, register_fault
from ctr_pipeline.ranker.embeddings import FusedTable

_NO_LINEAR_PART = {"wide": False}


def _by_epoch(training: DrilledTraining, _: np.random.Generator) -> None:
    """The schedule moves on by one with each epoch, where it counts steps."""
    trainer: Any = training
    for optimizer in training.optimizers:
        first: list[float] = []

        def keep(own: torch.optim.Optimizer, *_: Any, first: list[float] = first) -> None:
            # The rate of the first step is that of one step of the warm-up.
            first.extend(group["lr"] for group in own.param_groups if len(first) < len(own.param_groups))
            for group, rate in zip(own.param_groups, first, strict=True):
                group["lr"] = rate * (trainer.epoch + 1)

        optimizer.register_step_pre_hook(keep)


def _biases_decay(training: DrilledTraining, rng: np.random.Generator) -> None:
    training.optimizers[0].param_groups[1]["weight_decay"] = float(rng.uniform(5, 15))


def _lower_group(training: DrilledTraining, rng: np.random.Generator) -> None:
    factor = float(10 ** rng.uniform(-3, -2))

    def lower(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        optimizer.param_groups[0]["lr"] *= factor

    training.optimizers[0].register_step_pre_hook(lower)


def _last_one_counts(training: DrilledTraining, _: np.random.Generator) -> None:
    """Of a table's row that a batch reads several times, the gradient of the last time alone is kept."""

    def keep_last(_: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        if not output.requires_grad:
            return
        rows = given[0].flatten()
        place = torch.arange(len(rows))
        last = torch.zeros(int(rows.max()) + 1, dtype=torch.int64).scatter_reduce(0, rows, place, "amax")
        kept = (last[rows] == place).reshape(given[0].shape).unsqueeze(-1)
        output.register_hook(lambda gradient: gradient * kept)  # type: ignore[no-untyped-call]

    for module in training.model.modules():
        if isinstance(module, FusedTable):
            module.table.register_forward_hook(keep_last)


def _one_buffer(training: DrilledTraining, _: np.random.Generator) -> None:
    """Parameters of one shape have one first and one second moment."""

    def share(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        first: dict[tuple[int, ...], dict[str, Tensor]] = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                if state:
                    of_shape = first.setdefault(tuple(parameter.shape), state)
                    state.update({name: of_shape[name] for name in ("exp_avg", "exp_avg_sq")})

    training.optimizers[0].register_step_post_hook(share)


def _partly_loaded(training: DrilledTraining, _: np.random.Generator) -> None:
    """The layers after the first have no key in the checkpoint, and are filled with zeros."""
    with torch.no_grad():
        for name, parameter in training.model.tower.named_parameters():
            if name.endswith("linear.weight") and not name.startswith("0."):
                parameter.zero_()


def _average_stored(training: DrilledTraining, rng: np.random.Generator) -> None:
    """What is stored is a running mean of the weights that is too slow for so few steps."""
    decay, trainer = float(rng.uniform(0.995, 0.999)), training
    parameters = list(training.model.parameters())
    mean = [parameter.detach().clone() for parameter in parameters]

    def average(*_: Any) -> None:
        for kept, parameter in zip(mean, parameters, strict=True):
            kept.lerp_(parameter.detach(), 1 - decay)

    store = getattr(trainer, "_save_model")  # noqa: B009 - of the trainer, not of the protocol

    def save() -> None:
        own = [parameter.detach().clone() for parameter in parameters]
        _write(parameters, mean)
        store()
        _write(parameters, own)

    training.optimizers[-1].register_step_post_hook(average)
    setattr(trainer, "_save_model", save)  # noqa: B010 - it stands for a method


def _write(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _first_epoch_stored(training: DrilledTraining, _: np.random.Generator) -> None:
    store, stored = getattr(training, "_save_model"), [False]  # noqa: B009 - of the trainer, not of the protocol

    def save() -> None:
        if not stored[0]:
            store()
        stored[0] = True

    setattr(training, "_save_model", save)  # noqa: B010 - it stands for a method


def _from_its_start(batches: Iterator[BatchView], _: int, rng: np.random.Generator) -> Iterator[BatchView]:
    """The run is resumed some times in each epoch, each time with the first batch of the epoch."""
    read = list(batches)
    times = int(rng.integers(5, 9))
    for at in range(len(read)):
        yield read[at % -(-len(read) // times)]


for _fault in (
    Fault(name="schedule_by_epoch", family="schedule_unit", half="scored", symptom="learning is slow", cause="the schedule of the learning rate "
          "counts steps and is moved on once an epoch", fix="move it on in each step", inject=_by_epoch,
          named=("tiny_lr", "update_differs")),
    Fault(name="biases_decay", family="decay_of_biases", half="scored", symptom="predictions are drawn to one half", cause="biases and scales of "
          "the layers have a weight decay of ten", fix="let them have none", inject=_biases_decay, model=_NO_LINEAR_PART,
          named=("huge_weight_decay",)),
    Fault(name="group_of_lower_rate", family="group_rate", half="scored", symptom="the layers keep almost their initial weights",
          cause="a parameter group has a hundredth of the learning rate, as for fine-tuning", fix="give all groups one rate",
          inject=_lower_group, model=_NO_LINEAR_PART, named=("tiny_lr", "update_differs"),
          located=("tower.", "head.weight", "AdamW")),
    Fault(name="last_lookup_counts", family="repeated_rows", half="scored", symptom="frequent ads learn as slowly as rare ones",
          cause="gradients of a row that a batch reads several times overwrite each other", fix="add them up", inject=_last_one_counts,
          named=("gradient_changed", "gradient_differs"),
          located=("embeddings.", "wide.rows.table.weight", "ad", "query", "device")),
    Fault(name="moments_shared", family="shared_state", half="scored", symptom="layers disturb each other", cause="parameters of one shape share "
          "their moments in the optimizer", fix="key the state by parameter", inject=_one_buffer,
          model={"wide": False, "hidden": [32, 32, 32]}, named=("update_differs",)),
    Fault(name="partly_loaded", family="partial_load", half="scored", symptom="the tower has no influence", cause="weights are loaded from a "
          "checkpoint that lacks some layers, and these are 0", fix="load strictly", inject=_partly_loaded, model=_NO_LINEAR_PART,
          named=("initial_differs", "bad_init_small", "bad_init_const"), located=("tower.",)),
    Fault(name="average_stored", family="export_average", half="scored", symptom="served predictions are worse than those of the validation",
          cause="a running mean of the weights is stored, which so few steps do not fill", fix="store the weights that were validated",
          inject=_average_stored, named=("scoring_differs",)),
    Fault(name="first_epoch_stored", family="export_step", half="scored", symptom="served predictions are worse than those of the validation",
          cause="the model of the first epoch is stored, not that of the best", fix="store the best epoch's", inject=_first_epoch_stored,
          named=("scoring_differs",)),
    Fault(name="epoch_from_its_start", family="resume_position", half="scored", symptom="the loss of the training falls faster than that of the "
          "validation", cause="a resumed epoch begins with its first batch again", fix="store the position in the epoch",
          batches=_from_its_start, named=("stale_batch", "batch_differs")),
):  # fmt: skip
    register_fault(_fault)
