"""Mistakes in the code of the model; their families are only scored.

Which causes of :mod:`ctr_pipeline.gradients.triage.causes` are right names for each was decided from the fault, before any of
them was run.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, register_fault
from ctr_pipeline.ranker.embeddings import EmbeddedFields, FusedTable

_NO_LINEAR_PART = {"wide": False}
"""What is wrong in the tower is not made good beside it."""


def _without_bias(training: DrilledTraining, _: np.random.Generator) -> None:
    training.model.head.register_forward_hook(lambda head, _, logits: logits - head.bias)


def _sigmoid(training: DrilledTraining, _: np.random.Generator) -> None:
    for module in training.model.tower.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, given, __: torch.sigmoid(4 * given[0] - 8))


def _no_skip(training: DrilledTraining, _: np.random.Generator) -> None:
    for layer in training.model.tower.modules():
        if hasattr(layer, "residual"):
            setattr(layer, "residual", False)  # noqa: B010 - modules have no such attribute in general


def _reshaped(training: DrilledTraining, _: np.random.Generator) -> None:
    """Embeddings [B, F, d] become [B, F d] by way of [F, B, d], which mixes the rows of the batch."""

    def flatten(_: nn.Module, __: Any, fields: EmbeddedFields) -> EmbeddedFields:
        return replace(fields, flat=fields.groups[0].transpose(0, 1).reshape(fields.flat.shape))

    training.model.embeddings.register_forward_hook(flatten)


def _exchanged_at_scoring(training: DrilledTraining, _: np.random.Generator) -> None:
    training.model.head.register_forward_hook(lambda head, _, logits: logits if head.training else logits.flip(1))


def _one_of_the_tasks(training: DrilledTraining, _: np.random.Generator) -> None:
    training.model.head.register_forward_hook(lambda _, __, logits: torch.log_softmax(logits, dim=1))


def _frozen_later(training: DrilledTraining, rng: np.random.Generator) -> None:
    left = [int(rng.integers(10, 30))]
    tables = [module.table.weight for module in training.model.embeddings.modules() if isinstance(module, FusedTable)]

    def freeze(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            for table in tables:
                table.requires_grad_(False)
                table.grad = None

    training.optimizers[-1].register_step_post_hook(freeze)


for _fault in (
    Fault(name="head_without_bias", family="missing_bias", half="scored", symptom="the first loss is that of one half", cause="the head was "
          "built without its bias", fix="build it with one", inject=_without_bias, model=_NO_LINEAR_PART,
          named=("no_base_rate", "detached_tower", "forward_differs"), located=("head", "head.bias", "click", "cart")),
    Fault(name="sigmoid_units", family="activation_function", half="scored", symptom="learning is slow", cause="hidden units are sigmoids far "
          "to the left, where they are flat, in place of rectified ones", fix="use the declared activation", inject=_sigmoid,
          model=_NO_LINEAR_PART, named=("forward_differs",), located=("tower", "tower.")),
    Fault(name="skip_dropped", family="residual", half="scored", symptom="a deep tower learns less than a shallow one", cause="layers do not add "
          "their input to their output any more", fix="add it", inject=_no_skip,
          model={"wide": False, "residual": True, "hidden": [16] * 6}, named=("forward_differs",), located=("tower", "tower.")),
    Fault(name="rows_reshaped", family="reshape", half="scored", symptom="embeddings say nothing of their row", cause="a reshape in place of a "
          "transposition gives each row the embeddings of others", fix="flatten from dimension 1 on", inject=_reshaped,
          model=_NO_LINEAR_PART, named=("batch_mixing",)),
    Fault(name="heads_exchanged_at_scoring", family="output_order", half="scored", symptom="training is well, validation is not",
          cause="scoring reads the outputs of the tasks in another order than the training", fix="name the outputs",
          inject=_exchanged_at_scoring, named=("forward_differs", "scoring_differs"), located=("head", "click", "cart")),
    Fault(name="softmax_over_tasks", family="exclusive_tasks", half="scored", symptom="predictions are drawn together", cause="outputs of the "
          "tasks are normalised as if they were exclusive classes", fix="give the loss the logits of each task",
          inject=_one_of_the_tasks, model=_NO_LINEAR_PART, named=("bounded_logits", "forward_differs"), located=("head", "click", "cart")),
    Fault(name="tables_frozen_later", family="freezing", half="scored", symptom="the loss stops falling after some steps",
          cause="embeddings are frozen after the first steps, as a fine-tuning did", fix="let them learn to the end",
          inject=_frozen_later, model=_NO_LINEAR_PART, named=("frozen_tower", "detached_tower"),
          located=("embeddings.tables.width_4.table.weight", "ad", "query", "device")),
):  # fmt: skip
    register_fault(_fault)
