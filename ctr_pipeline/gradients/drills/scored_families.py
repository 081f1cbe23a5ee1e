"""Faults of families that are only scored: no rule of triage may be written against them.

Each says which causes of :mod:`ctr_pipeline.gradients.triage.causes` are right names for it. That was decided from the fault,
before any of them was run; the name of ``dropout_at_scoring`` was added when triage came to know that cause.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, register_fault

Injection = Callable[[DrilledTraining, np.random.Generator], None]


# Rows.


def _one_further(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    ids = rows.ids.copy()
    ids[:, 0] = np.where(ids[:, 0] < 59, ids[:, 0] + 1, 2)
    return replace(rows, ids=ids)


def _mostly_unknown(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    ids = rows.ids.copy()
    ids[rng.random(len(rows)) < rng.uniform(0.5, 0.8), 0] = 1
    return replace(rows, ids=ids)


def _exchanged(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    return replace(rows, labels=rows.labels[:, ::-1].copy())


def _inverted(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    labels = rows.labels.copy()
    labels[:, 0] = 1 - labels[:, 0]
    return replace(rows, labels=labels)


def _not_yet_known(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    labels = rows.labels.copy()
    late = np.arange(len(rows)) > len(rows) * rng.uniform(0.3, 0.6)
    open_ = late[:, None] & (labels == 1) & (rng.random(labels.shape) < 0.9)
    labels[open_] = 0
    # What had no click has no later outcome.
    labels[(labels[:, 0] == 0) & (labels[:, 1] == 1), 1] = 0
    return replace(rows, labels=labels)


def _fanned_out(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    times = np.where(rows.labels[:, 0] == 1, int(rng.integers(3, 7)), 1)
    chosen = np.repeat(np.arange(len(rows)), times)
    return replace(rows, **{name: array[chosen] for name, array in rows.arrays().items()})


def _other_statistics(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[:, 1] = rng.uniform(1.5, 3) + rng.uniform(2, 4) * numeric[:, 1]
    return replace(rows, numeric=numeric)


def _in_cents(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[rng.random(len(rows)) < rng.uniform(0.2, 0.5), 0] *= 100
    return replace(rows, numeric=numeric)


def _of_another_row(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[:, 1] = numeric[rng.permutation(len(rows)), 1]
    return replace(rows, numeric=numeric)


def _absent(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[:, 1] = np.nan
    return replace(rows, numeric=numeric)


def _some_negative(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    weights = rows.weights.copy()
    weights[rng.random(len(rows)) < 0.01] *= -1
    return replace(rows, weights=weights)


def _by_label(batches: Iterator[BatchView], _: int, __: np.random.Generator) -> Iterator[BatchView]:
    """The batches of an epoch, with all rows in the order of their first label."""
    read = list(batches)
    columns = {name: torch.cat([batch.tensors()[name] for batch in read]) for name in read[0].tensors()}
    order = torch.argsort(columns["labels"][:, 0].int(), stable=True)
    start = 0
    for batch in read:
        chosen = order[start : start + len(batch.rows)]
        start += len(batch.rows)
        changed: dict[str, Any] = {name: column[chosen] for name, column in columns.items()}
        yield replace(batch, **changed)


# Gradients, optimizers and weights.


def _settings(**changed: Any) -> Injection:
    """Changes settings of the optimizer of the dense parameters."""

    def inject(training: DrilledTraining, _: np.random.Generator) -> None:
        for group in training.optimizers[0].param_groups:
            group.update(changed)

    return inject


def _stuck(training: DrilledTraining, rng: np.random.Generator) -> None:
    left = [int(rng.integers(10, 40))]

    def no_rate(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            for optimizer in training.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = 0.0

    training.optimizers[0].register_step_pre_hook(no_rate)


def _dense(training: DrilledTraining) -> list[nn.Parameter]:
    return [p for p in training.model.parameters() if p.grad is not None and not p.grad.is_sparse]


def _noise(training: DrilledTraining, rng: np.random.Generator) -> None:
    generator, size = torch.Generator().manual_seed(int(rng.integers(2**31))), float(rng.uniform(1, 5))

    def add(*_: Any) -> None:
        for parameter in _dense(training):
            assert parameter.grad is not None
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad.add_(size * noise * parameter.grad.norm() / noise.norm().clamp_min(1e-12))

    training.optimizers[0].register_step_pre_hook(add)


def _shortened(training: DrilledTraining, rng: np.random.Generator) -> None:
    """What clipping of gradients that still carry the loss scale leaves once they are divided by it."""
    scale = float(2 ** rng.integers(14, 18))

    def shorten(*_: Any) -> None:
        for parameter in training.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(1 / scale)

    training.optimizers[0].register_step_pre_hook(shorten)


def _late(training: DrilledTraining, _: np.random.Generator) -> None:
    kept: dict[int, Tensor] = {}

    def exchange(*_: Any) -> None:
        for parameter in _dense(training):
            assert parameter.grad is not None
            own = parameter.grad.clone()
            parameter.grad.copy_(kept.get(id(parameter), torch.zeros_like(own)))
            kept[id(parameter)] = own

    training.optimizers[0].register_step_pre_hook(exchange)


def _rounded(training: DrilledTraining, _: np.random.Generator) -> None:
    def round_(*_: Any) -> None:
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.copy_(parameter.bfloat16().float())

    training.optimizers[-1].register_step_post_hook(round_)


def _restored(training: DrilledTraining, rng: np.random.Generator) -> None:
    old = [p.detach().clone() for p in training.model.tower.parameters()]
    every, steps = int(rng.integers(5, 15)), [0]

    def restore(*_: Any) -> None:
        steps[0] += 1
        if steps[0] % every == 0:
            with torch.no_grad():
                for parameter, weights in zip(training.model.tower.parameters(), old, strict=True):
                    parameter.copy_(weights)

    training.optimizers[-1].register_step_post_hook(restore)


# The model.


def _dropout(training: DrilledTraining, rng: np.random.Generator) -> None:
    share = float(rng.uniform(0.6, 0.8))

    def drop(_: Any, __: Any, hidden: Tensor) -> Tensor:
        return nn.functional.dropout(hidden, share, training=True)

    training.model.tower.register_forward_hook(drop)


def _sharp(training: DrilledTraining, rng: np.random.Generator) -> None:
    factor = float(rng.uniform(4, 10))
    training.model.head.register_forward_hook(lambda _, __, logits: logits * factor)


for _fault in (
    Fault(name="ids_one_further", family="vocabulary", symptom="validation is worse than a constant, training is not",
          cause="ids of the training rows stand one row further than the vocabulary says", fix="pack with one vocabulary",
          rows=_one_further, named=("ids_misplaced", "wrong_offsets"), located=("ad",)),
    Fault(name="mostly_unknown", family="unknown_values", symptom="ads are told apart less than they were",
          cause="most ids of a feature are read as unknown", fix="make the keys of log and vocabulary alike",
          rows=_mostly_unknown, named=("hash_clip", "feature_missing", "ids_misplaced"), located=("ad",)),
    Fault(name="tasks_exchanged", family="task_labels", symptom="more carts than clicks", cause="labels of two tasks are exchanged",
          fix="name the columns", rows=_exchanged, named=("mask_inverted",), located=("click", "cart", "cart after click")),
    Fault(name="clicks_inverted", family="label_values", symptom="an AUC below one half", cause="labels have 1 where no click was",
          fix="give clicks the label 1", rows=_inverted, named=("label_flip", "mask_inverted"), located=("click", "cart after click")),
    Fault(name="open_window", family="maturity", symptom="predictions are too low", cause="outcomes of the last rows were not yet known "
          "and count as none", fix="wait for the window to close, or mask open labels", rows=_not_yet_known,
          named=("base_rate_shift",), located=("click", "cart")),
    Fault(name="join_fan_out", family="fan_out", symptom="predictions are too high", cause="a join repeats the rows with a click",
          fix="join on a unique key", rows=_fanned_out, named=("duplicate_rows", "base_rate_shift")),
    Fault(name="other_statistics", family="statistics", symptom="a feature means one thing in training and another afterwards",
          cause="a number of the training rows was standardised by other statistics", fix="fit statistics once, on these rows",
          rows=_other_statistics, named=("unnormalised_feature", "feature_drift"), located=("rating",)),
    Fault(name="price_in_cents", family="unit", symptom="a feature has two humps", cause="some rows have a price in cents",
          fix="convert at ingestion", rows=_in_cents, named=("unnormalised_feature", "feature_drift"), located=("price",)),
    Fault(name="feature_of_another_row", family="feature_join", symptom="a good feature says nothing any more",
          cause="a feature was joined by place", fix="join it by its key", rows=_of_another_row, named=("feature_permuted",),
          located=("rating",)),
    Fault(name="absent_at_scoring", family="serving_skew", symptom="training is well, validation is not",
          cause="a feature of the training is missing where the model is used", fix="train with what is there when serving",
          other_rows=_absent, named=("feature_drift", "feature_missing"), located=("rating",)),
    Fault(name="negative_weights", family="weight_values", symptom="some rows are unlearnt", cause="some weights are negative",
          fix="limit weights", rows=_some_negative, named=("bad_weight",), located=("weights",)),
    Fault(name="rows_in_order", family="order", symptom="the loss has the period of an epoch", cause="rows are read in the order of "
          "their labels", fix="shuffle rows", batches=_by_label, named=("stale_batch",)),
    Fault(name="betas_exchanged", family="moments", symptom="learning is slow, then too fast", cause="the betas of Adam are exchanged",
          fix="beta1 .9, beta2 .999", inject=_settings(betas=(0.999, 0.9)), named=("optimizer_settings",)),
    Fault(name="epsilon_one", family="moments", symptom="layers hardly move", cause="the epsilon of Adam is 1",
          fix="take 1e-8", inject=_settings(eps=1.0), named=("optimizer_settings", "tiny_lr")),
    Fault(name="decay_of_layers", family="decay", symptom="weights of the layers go to 0", cause="the weight decay is a million times "
          "too large", fix="take 1e-5", training={"weight_decay": 30.0}, named=("huge_weight_decay",)),
    Fault(name="penalty_of_rows", family="decay", symptom="embeddings go to 0", cause="the penalty on embeddings is too large",
          fix="take 0", training={"embedding_l2": 10.0}, named=("huge_weight_decay",)),
    Fault(name="schedule_stuck", family="schedule", symptom="the loss stands still after some steps",
          cause="the schedule gives a rate of 0 from some step on", fix="give the schedule the number of steps", inject=_stuck,
          named=("tiny_lr",)),
    Fault(name="noise_in_gradients", family="noise", symptom="learning is slow", cause="noise is added to gradients", fix="remove it",
          inject=_noise, named=("gradient_changed",)),
    Fault(name="clipped_before_unscale", family="clip_order", symptom="steps are short", cause="gradients are clipped while they "
          "carry the loss scale", fix="unscale first", inject=_shortened, named=("clip_too_tight", "gradient_changed")),
    Fault(name="gradients_late", family="asynchrony", symptom="the loss swings", cause="an update follows the gradients of the step "
          "before", fix="wait for the gradients", inject=_late, named=("gradient_changed",)),
    Fault(name="weights_rounded", family="rounding", symptom="learning stops early", cause="weights are rounded to 16 bits after each "
          "update", fix="keep them in float32", inject=_rounded, named=("fp16_embedding", "weights_overwritten")),
    Fault(name="old_weights_return", family="restoring", symptom="the loss has teeth", cause="the weights of the layers are set back "
          "again and again", fix="load the checkpoint once", inject=_restored, named=("weights_overwritten",)),
    Fault(name="dropout_at_scoring", family="scoring", symptom="predictions of a row differ each time", cause="dropout stays on when "
          "scoring", fix="follow model.eval()", inject=_dropout, named=("random_in_evaluation", "dropout_too_high")),
    Fault(name="temperature", family="temperature", symptom="predictions are extreme", cause="logits are multiplied by a constant",
          fix="remove it", inject=_sharp, named=("temperature",)),
):  # fmt: skip
    register_fault(replace(_fault, half="scored"))
