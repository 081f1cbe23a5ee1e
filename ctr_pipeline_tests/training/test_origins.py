"""Injected faults of a step, one for each place where a value can break: the origin is named, not what it spoilt."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest
import torch

from ctr_pipeline.gradients import Diagnosis
from ctr_pipeline.training.dataloader import epoch_order, gather
from ctr_pipeline.training.step import StepPosition, cause_of, take_step, update

TABLE, WIDE = "embeddings.tables.width_4.table.weight", "wide.rows.table.weight"
NARROW = "embeddings.tables.width_2.table.weight"

Case = tuple[str, str, str | None, int | None]
"""Kind, tensor, feature, row that must be named; a row of -1 is that of sample 5."""

FAULTS: dict[str, tuple[Callable, Case]] = {}


def fault(kind: str, tensor: str, feature: str | None = None, row: int | None = None):
    def register(inject: Callable) -> Callable:
        FAULTS[inject.__name__ if inject.__name__ != "inject" else f"{kind} {tensor} {feature}"] = (
            inject, (kind, tensor, feature, row),
        )  # fmt: skip
        return inject

    return register


def parameter_fault(name: str, at: tuple[int, ...], value: float, feature: str | None = None, row: int | None = None):
    @fault("parameter", name, feature, row)
    def inject(trainer, batch):
        trainer.model.get_parameter(name).data[at] = value
        return batch


parameter_fault("tower.0.linear.weight", (3, 2), math.nan)
parameter_fault("tower.0.linear.bias", (1,), math.inf)
parameter_fault("tower.1.linear.weight", (0, 0), -math.inf)
parameter_fault("head.weight", (1, 3), math.nan)
parameter_fault("head.bias", (0,), math.nan)
parameter_fault("wide.numbers.weight", (0, 1), math.inf)
parameter_fault(TABLE, (17, 2), math.nan, "ad", 17)
parameter_fault(TABLE, (60 + 23, 0), math.inf, "query", 23)
parameter_fault(NARROW, (4, 1), math.nan, "device", 4)
parameter_fault(WIDE, (60 + 40 + 2, 1), math.nan, "device", 2)


def state_fault(
    place: int, name: str, key: str, at: tuple[int, ...], feature: str | None = None, row: int | None = None
):
    @fault("optimizer_state", name, feature, row)
    def inject(trainer, batch):
        trainer.optimizers[place].state[trainer.model.get_parameter(name)][key][at] = math.nan
        return batch


state_fault(0, "tower.0.linear.weight", "exp_avg", (2, 2))
state_fault(0, "head.weight", "exp_avg_sq", (0, 0))
state_fault(0, "tower.1.linear.bias", "exp_avg", (3,))
state_fault(1, TABLE, "accumulated", (11,), "ad", 11)
state_fault(1, WIDE, "accumulated", (60 + 9,), "query", 9)


def buffer_fault(name: str):
    @fault("buffer", name)
    def inject(trainer, batch):
        trainer.model.get_buffer(name).view(-1)[0] = math.nan
        return batch


@fault("input", "numeric", "rating", -1)
def infinite_number(trainer, batch):
    batch.numeric[5, 1] = math.inf
    return batch


@fault("input", "numeric", "price", -1)
def infinite_optional_number(trainer, batch):
    batch.numeric[5, 0] = -math.inf
    return batch


@fault("input", "ids", "query", -1)
def id_behind_its_table(trainer, batch):
    batch.ids[5, 1] = 40
    return batch


@fault("input", "ids", "ad", -1)
def id_below_its_table(trainer, batch):
    batch.ids[5, 0] = -3
    return batch


@fault("input", "weights", None, -1)
def weight_without_a_number(trainer, batch):
    batch.weights[5, 1] = math.nan
    return batch


def output_fault(name: str, value: float = math.inf, row: int | None = -1):
    @fault("activation", name, None, row)
    def inject(trainer, batch):
        def spoil(module, given, output):
            spoilt = torch.ones(output.shape[0], *[1] * (output.dim() - 1))
            spoilt[5] = value
            return output * spoilt + spoilt

        trainer.model.get_submodule(name).register_forward_hook(spoil)
        return batch


for _module in (
    "numeric", "tower.0.linear", "tower.0.activation", "tower.1.linear", "tower.1.activation", "head",
    "embeddings.tables.width_4", "embeddings.tables.width_2", "wide.rows", "wide.numbers",
):  # fmt: skip
    output_fault(_module)


def gradient_fault(name: str, at: tuple[int, ...], feature: str | None = None):
    @fault("gradient", name, feature, None if feature is None else -2)
    def inject(trainer, batch):
        def spoil(gradient):
            if gradient.is_sparse:
                gradient = gradient.coalesce()
                row = int(gradient.indices()[0, at[0]])
                values = gradient.values().clone()
                values[at] = math.inf
                trainer.spoilt_row = row
                return torch.sparse_coo_tensor(gradient.indices(), values, gradient.shape)
            gradient = gradient.clone()
            gradient[at] = math.nan
            return gradient

        trainer.model.get_parameter(name).register_hook(spoil)
        return batch


gradient_fault("tower.0.linear.weight", (1, 1))
gradient_fault("tower.0.linear.bias", (0,))
gradient_fault("tower.1.linear.weight", (2, 0))
gradient_fault("head.weight", (0, 0))
gradient_fault("wide.numbers.weight", (0, 0))
gradient_fault(TABLE, (3, 1), "ad")
gradient_fault(NARROW, (1, 0), "device")


@fault("gradient", "SqrtBackward0")
def root_of_zero(trainer, batch):
    trainer.model.tower[1].register_forward_hook(lambda *call: call[2] + torch.sqrt(call[2] * 0))
    return batch


@fault("gradient", "PowBackward0")
def power_of_zero(trainer, batch):
    trainer.model.tower[0].register_forward_hook(lambda *call: call[2] + (call[2] * 0) ** 0.5)
    return batch


@fault("loss", "log of the loss")
def logarithm_in_the_loss(trainer, batch):
    objectives = trainer.state.objectives
    inner = objectives.task_sums

    def sums(logits, labels, weights, delays=None):
        return inner(logits, labels, weights, delays) + 0 * torch.log(torch.sigmoid(logits * 0 - 200)).sum()

    objectives.task_sums = sums
    return batch


@fault("update", "dense")
def decay_without_bound(trainer, batch):
    trainer.optimizers[0].param_groups[0]["weight_decay"] = math.inf
    return batch


def diagnosed(trainer, inject: Callable) -> tuple[Diagnosis, torch.Tensor]:
    order = epoch_order(len(trainer.train), trainer.job.seed, 0)
    at = [StepPosition(step=step, epoch=0, rows=100, rate_factor=1.0) for step in range(2)]
    assert update(trainer.state, take_step(trainer.state, gather(trainer.train, order[:100]), at[0])) is None
    batch = inject(trainer, gather(trainer.train, order[100:200]))
    taken = take_step(trainer.state, batch, at[1])
    cause = update(trainer.state, taken)
    assert cause is not None, "nothing was found"
    return cause, batch


@pytest.mark.parametrize("name", FAULTS)
def test_the_origin_is_named(name: str, job, make_trainer) -> None:
    inject, (kind, tensor, feature, row) = FAULTS[name]
    # Each update is looked at where each step is measured in detail.
    trainer = make_trainer(job.model_copy(update={"training": job.training.model_copy(update={"detail_every": 1})}))
    cause, batch = diagnosed(trainer, inject)
    assert cause.kind == kind, cause
    assert cause.step == 1
    if kind == "update":
        assert cause.tensor in {name for name, _ in trainer.state.named}
    else:
        assert cause.tensor == tensor, cause
    assert cause.feature == feature, cause
    expected = (
        {-1: int(batch.rows[5]), -2: getattr(trainer, "spoilt_row", None)}.get(row, row) if row is not None else None
    )
    assert cause.row == expected, cause
    if kind in ("activation", "loss") or "Backward" in tensor:
        assert cause.source
        assert cause.source.startswith("test_origins.py:"), cause.source


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 30


def test_it_takes_less_than_a_tenth_of_a_second(job, make_trainer) -> None:
    trainer = make_trainer(job.model_copy(update={"model": job.model.model_copy(update={"hidden": [128, 64]})}))
    trainer.model.get_submodule("tower.1.activation").register_forward_hook(lambda *call: call[2] * math.inf)
    batch = gather(trainer.train, epoch_order(1000, 3, 0)[:256])
    taken = take_step(trainer.state, batch, StepPosition(step=1, epoch=0, rows=256, rate_factor=1.0))
    seconds = []
    for _ in range(5):
        # Of the thread: a machine that is busy with other work takes longer.
        started = time.thread_time()
        cause = cause_of(trainer.state, replace(taken))
        seconds.append(time.thread_time() - started)
    assert cause.tensor == "tower.1.activation"
    assert median(seconds) < 0.1
