"""Faults of parameters, optimizers, initial weights and modes."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, register_fault, table_of


def _misses_table(training: DrilledTraining, _: np.random.Generator) -> None:
    table = table_of(training)
    for group in training.optimizers[-1].param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter is not table]


def _stale(training: DrilledTraining, _: np.random.Generator) -> None:
    training.model.head.weight = nn.Parameter(training.model.head.weight.detach().clone())


def _frozen(training: DrilledTraining, _: np.random.Generator) -> None:
    training.model.tower.requires_grad_(False)


def _detached(training: DrilledTraining, _: np.random.Generator) -> None:
    training.model.tower.register_forward_hook(lambda _, __, hidden: hidden.detach())


def _large_table(training: DrilledTraining, rng: np.random.Generator) -> None:
    with torch.no_grad():
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        table_of(training).normal_(0.0, float(rng.uniform(2, 8)), generator=generator)


def _large(training: DrilledTraining, rng: np.random.Generator) -> None:
    factor = float(rng.uniform(8, 20))
    with torch.no_grad():
        for parameter in training.model.tower.parameters():
            parameter.mul_(factor)
        training.model.head.weight.mul_(factor)


def _constant(training: DrilledTraining, rng: np.random.Generator) -> None:
    value = float(rng.uniform(0.02, 0.2))
    with torch.no_grad():
        for parameter in training.model.tower.parameters():
            if parameter.ndim == 2:
                parameter.fill_(value)


def _dead(training: DrilledTraining, rng: np.random.Generator) -> None:
    value = -float(rng.uniform(10, 40))
    with torch.no_grad():
        for name, parameter in training.model.tower.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(value)


def _evaluation(training: DrilledTraining, _: np.random.Generator) -> None:
    training.model.eval()
    model: Any = training.model
    model.train = lambda _=True: training.model


def _decay(training: DrilledTraining, rng: np.random.Generator) -> None:
    table, strength = table_of(training), float(rng.uniform(0.5, 2))

    def move(*__: Any) -> None:
        with torch.no_grad():
            rate = training.optimizers[-1].param_groups[0]["lr"]
            table.sub_(strength * rate * torch.sign(table))

    # As a first hook of the update, so that it is part of the step that is watched.
    training.optimizers[0].register_step_post_hook(move)


def _no_bias(training: DrilledTraining, rng: np.random.Generator) -> None:
    with torch.no_grad():
        training.model.head.bias.fill_(float(rng.choice([-1, 1]) * rng.uniform(4, 7)))


def _offsets(training: DrilledTraining, _: np.random.Generator) -> None:
    for module in training.model.modules():
        if isinstance(offsets := getattr(module, "offsets", None), torch.Tensor):
            offsets.zero_()


for _fault in (
    Fault(name="optimizer_misses_table", family="coverage", symptom="an embedding table keeps its initial values",
          cause="no optimizer holds a new table", fix="add the table to a parameter group", inject=_misses_table,
          located=("embeddings.tables.width_4.table.weight",)),
    Fault(name="stale_optimizer", family="coverage", symptom="the head keeps its initial weights",
          cause="the optimizer was built before a part of the model was replaced", fix="build optimizers last", inject=_stale,
          located=("head.weight",)),
    Fault(name="frozen_tower", family="frozen", symptom="the loss falls to that of embeddings and bias alone",
          cause="requires_grad of the tower is False", fix="set it to True", inject=_frozen,
          located=("tower.",)),
    Fault(name="detached_tower", family="frozen", symptom="the loss falls to that of the head alone",
          cause="the output of the tower is detached", fix="remove detach()", inject=_detached,
          located=("tower", "tower.", "embeddings.")),
    Fault(name="new_embedding_huge", family="initialisation", symptom="large first gradients, slow start",
          cause="a new table starts with a standard deviation of 5", fix="start embeddings near 0", inject=_large_table,
          located=("ad", "query", "device", "embeddings.tables.width_4.table.weight")),
    Fault(name="bad_init_large", family="initialisation", symptom="large first loss",
          cause="the weights of the layers start ten times too large", fix="initialise by fan-in", inject=_large,
          located=("tower", "tower.", "head.weight")),
    Fault(name="bad_init_const", family="initialisation", symptom="all units of a layer stay alike",
          cause="hidden weights start with one constant", fix="draw them at random", inject=_constant,
          located=("tower.",)),
    Fault(name="no_base_rate", family="initialisation", symptom="the first loss is many times that of a constant",
          cause="the bias of the head is not that of the base rate", fix="start it from the logit of the rate",
          inject=_no_bias,
          located=("head.bias", "click", "cart")),
    Fault(name="dead_relu", family="units", symptom="hidden units are 0 for every row",
          cause="the biases of rectified layers are far below 0", fix="start biases at 0", inject=_dead,
          located=("tower.",)),
    Fault(name="eval_mode", family="mode", symptom="overfits: no dropout acts",
          cause="the model stays in evaluation mode", fix="call model.train() before each epoch", inject=_evaluation),
    Fault(name="l2_in_adam", family="penalty", symptom="rows of rare ids shrink without being read",
          cause="a penalty moves every row in each step", fix="regularise the rows of the batch, or decouple the decay",
          inject=_decay,
          located=("embeddings.tables.width_4.table.weight",)),
    Fault(name="wrong_offsets", family="tables", symptom="features share rows",
          cause="each feature reads the first one's rows of the fused table", fix="add each feature's own start",
          inject=_offsets,
          located=("query", "device", "embeddings.tables.width_4.table.weight")),
    Fault(name="huge_lr", family="learning_rate", symptom="the loss jumps and does not come back",
          cause="learning rates of .3 and 5", fix="lower them to their defaults",
          training={"learning_rate": 0.3, "embedding_learning_rate": 5.0, "clip_norm": 1e30}),
):  # fmt: skip
    register_fault(_fault)
