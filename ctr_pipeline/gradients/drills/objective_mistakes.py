"""Mistakes in what is minimised: masks, weights and terms of the loss; their families are only scored.

Which causes of :mod:`ctr_pipeline.gradients.triage.causes` are right names for each was decided from the fault, before any of
them was run.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, register_fault


def _clicked_alone(training: DrilledTraining, _: np.random.Generator) -> None:
    """The second task learns from the rows that have a positive of the first."""
    inner = training.objectives.task_sums

    def sums(z: Tensor, y: Tensor, *rest: Any) -> Tensor:
        clicked = y[:, :1] == 1
        seen = torch.cat([y[:, :1], torch.where(clicked, y[:, 1:], torch.full_like(y[:, 1:], -1))], dim=1)
        total: Tensor = inner(z, seen, *rest)
        return total

    training.objectives.task_sums = sums


def _each_others_weight(training: DrilledTraining, _: np.random.Generator) -> None:
    """Weights n / (2 n_class) that are meant to balance the classes, with the index of the class reversed."""
    inner, labels = training.objectives.task_sums, training.train.labels
    counts = np.stack([(labels == value).sum(axis=0) for value in (0, 1)])
    of_zero, of_one = torch.from_numpy((counts.sum(axis=0) / (2 * counts[::-1])).astype(np.float32))
    training.objectives.task_sums = lambda z, y, w, *rest: inner(z, y, w * torch.where(y == 1, of_one, of_zero), *rest)


def _first_task_alone(training: DrilledTraining, _: np.random.Generator) -> None:
    inner = training.objectives.task_sums

    def sums(*given: Any) -> Tensor:
        total: Tensor = inner(*given)
        return torch.cat([total[:1], total[1:] * 0])

    training.objectives.task_sums = sums


def _offset(training: DrilledTraining, rng: np.random.Generator) -> None:
    inner, kept = training.objectives.task_sums, math.log(rng.uniform(0.1, 0.25))
    training.objectives.task_sums = lambda z, *rest: inner(z + kept, *rest)


def _limited(training: DrilledTraining, rng: np.random.Generator) -> None:
    most = float(rng.uniform(2.5, 3.5))

    def sums(z: Tensor, y: Tensor, w: Tensor, *_: Any) -> Tensor:
        each = nn.functional.binary_cross_entropy_with_logits(z, (y == 1).float(), reduction="none")
        return torch.where(y >= 0, each.clamp_max(most) * w, 0.0).sum(dim=0)

    training.objectives.task_sums = sums


def _by_positives(training: DrilledTraining, _: np.random.Generator) -> None:
    """Sums that are divided by the number of positives once they are divided by that of known labels."""
    inner = training.objectives.task_sums

    def sums(z: Tensor, y: Tensor, *rest: Any) -> Tensor:
        total: Tensor = inner(z, y, *rest)
        return total * (y >= 0).sum(dim=0) / (y == 1).sum(dim=0).clamp_min(1)

    training.objectives.task_sums = sums


def _one_day_counts(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    day = np.arange(len(rows)) * 50 // len(rows) == rng.integers(50)
    of_row = np.where(day, rng.uniform(80, 150), 1.0)
    return replace(rows, weights=np.repeat((of_row / of_row.mean()).astype(np.float32)[:, None], 2, axis=1))


for _fault in (
    Fault(name="mask_of_clicks", family="task_mask", half="scored", symptom="carts are predicted too often", cause="the loss of carts has the "
          "mask of clicked rows, though its prediction is one for all impressions", fix="mask by what is known of the task itself",
          inject=_clicked_alone, named=("mask_drops_labels",), located=("cart",)),
    Fault(name="classes_have_each_others_weight", family="class_index", half="scored", symptom="predictions are too low", cause="weights that "
          "are to balance the classes are read with the class reversed", fix="index them by the label, or remove them",
          inject=_each_others_weight, named=("class_weights",), located=("click", "cart")),
    Fault(name="first_task_alone", family="task_left_out", half="scored", symptom="carts are predicted as their base rate is",
          cause="of the tasks' losses the first alone is added", fix="sum over the tasks", inject=_first_task_alone,
          model={"heads": "independent"}, named=("mask_drops_labels", "loss_differs"), located=("cart",)),
    Fault(name="sampling_offset_left", family="logit_offset", half="scored", symptom="predictions are several times too high",
          cause="the loss corrects logits for a sampling of the negatives that is not done any more", fix="remove the offset",
          inject=_offset, named=("wrong_loss", "loss_differs"), located=("click", "cart")),
    Fault(name="loss_limited", family="loss_clipping", half="scored", symptom="predictions are too low", cause="the loss of a row is cut off, "
          "so that what is predicted worst is not learnt", fix="limit the gradient's norm, not the loss", inject=_limited,
          named=("wrong_loss", "loss_differs", "mask_drops_labels"), located=("click", "cart")),
    Fault(name="mean_over_positives", family="denominator", half="scored", symptom="the rarer a task the larger its gradient",
          cause="the sum of a task's losses is divided by the number of its positives", fix="divide by the number of known labels",
          inject=_by_positives, named=("loss_scaled", "loss_sum", "loss_differs"), located=("click", "cart")),
    Fault(name="one_day_counts", family="day_weight", half="scored", symptom="validation is worse with each epoch", cause="the weight of one "
          "day's rows is a hundred times that of the others, as its sampling rate was read in per cent", fix="read rates as shares",
          rows=_one_day_counts, named=("ips_unclipped",), located=("click", "cart", "weights")),
):  # fmt: skip
    register_fault(_fault)
