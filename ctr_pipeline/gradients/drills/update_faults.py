"""Faults of gradients on their way to the optimizers, of updates, of schedules, and of what happens to logits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, register_fault

Injection = Callable[[DrilledTraining, np.random.Generator], None]


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


def _dropout(training: DrilledTraining, rng: np.random.Generator) -> None:
    share = float(rng.uniform(0.6, 0.8))

    def drop(_: Any, __: Any, hidden: Tensor) -> Tensor:
        return nn.functional.dropout(hidden, share, training=True)

    training.model.tower.register_forward_hook(drop)


def _sharp(training: DrilledTraining, rng: np.random.Generator) -> None:
    factor = float(rng.uniform(4, 10))
    training.model.head.register_forward_hook(lambda _, __, logits: logits * factor)


for _fault in (
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
          "before", fix="wait for the gradients", inject=_late, named=("stale_gradients", "gradient_changed")),
    Fault(name="weights_rounded", family="rounding", symptom="learning stops early", cause="weights are rounded to 16 bits after each "
          "update", fix="keep them in float32", inject=_rounded, named=("fp16_embedding", "weights_overwritten")),
    Fault(name="old_weights_return", family="restoring", symptom="the loss has teeth", cause="the weights of the layers are set back "
          "again and again", fix="load the checkpoint once", inject=_restored, named=("weights_overwritten",)),
    Fault(name="dropout_at_scoring", family="scoring", symptom="predictions of a row differ each time", cause="dropout stays on when "
          "scoring", fix="follow model.eval()", inject=_dropout, named=("random_in_evaluation", "dropout_too_high")),
    Fault(name="temperature", family="temperature", symptom="predictions are extreme", cause="logits are multiplied by a constant",
          fix="remove it", inject=_sharp, named=("temperature",)),
):  # fmt: skip
    register_fault(_fault)
