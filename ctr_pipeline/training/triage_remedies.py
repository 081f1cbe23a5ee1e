"""What a replay changes of a training that is built once more: one remedy for each cause that a program can treat."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from ctr_pipeline.ranker.initialisation import EMBEDDING_LENGTH
from ctr_pipeline.training.assembly import build_objectives
from ctr_pipeline.training.dataloader import delays_of
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.plan import known_outcomes, plan_training

Change = Callable[[Trainer], None]

LARGEST_WEIGHT = 5.0
"""Weights above this many times their median are limited by the remedy of unlimited ones."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """A change of a training that has not begun.

    Attributes:
        name: What is changed, in words.
        change: Changes the training.
        cause: The cause that it removes; None for one that treats symptoms.
    """

    name: str
    change: Change
    cause: str | None = None


def clipped(trainer: Trainer) -> None:
    """Limits the norm of the gradient to 10."""
    # The state is frozen for the loop; a replay changes what the loop may not.
    object.__setattr__(trainer.state, "clip_norm", 10.0)


def slowed(trainer: Trainer) -> None:
    """Takes a tenth of the learning rates."""
    trainer.state.peaks[:] = [peak / 10 for peak in trainer.state.peaks]


def _usual_rates(trainer: Trainer) -> None:
    """Those that a spec which leaves them open would have."""
    training = trainer.job.training.model_copy(update={"learning_rate": None, "embedding_learning_rate": None})
    plan = plan_training(training, trainer.job.model, len(trainer.train), known_outcomes(trainer.train.labels))
    usual = (plan.learning_rate, plan.embedding_learning_rate)
    trainer.state.peaks[:] = [
        wanted if not 0.1 * wanted < peak < 10 * wanted else peak
        for peak, wanted in zip(trainer.state.peaks, usual, strict=False)
    ]


def _small_tables(trainer: Trainer) -> None:
    """Draws the rows of each feature that start far from the usual size once more."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for table in trainer.model.embeddings.tables.values():
            std = EMBEDDING_LENGTH / math.sqrt(int(table.width))  # type: ignore[arg-type]
            for index, start in table.owned():  # type: ignore[operator]
                rows = table.table.weight[start : start + trainer.dataset.layout.ids[index].rows]  # type: ignore[union-attr, index]
                size = float(rows.double().square().mean().sqrt())
                if not 0.1 * std < size < 10 * std:
                    rows.normal_(0.0, std, generator=generator)


def _limited_weights(trainer: Trainer) -> None:
    weights = np.array(trainer.train.weights, dtype=np.float64)
    weights = np.where(np.isfinite(weights), weights, 0.0)
    middle = np.median(np.maximum(weights, 0), axis=0)
    limited = np.clip(weights, 0, LARGEST_WEIGHT * np.maximum(middle, 1e-12))
    limited = limited / np.maximum(limited.mean(axis=0), 1e-12)
    trainer.train = replace(trainer.train, weights=limited.astype(np.float32))


def _small_and_limited(trainer: Trainer) -> None:
    _small_tables(trainer)
    _limited_weights(trainer)


def _usual_layers(trainer: Trainer) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for linear in trainer.model.tower.linears:
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(linear.bias)
        nn.init.xavier_uniform_(trainer.model.head.weight, gain=0.1, generator=generator)
    _base_rates(trainer)


def _base_rates(trainer: Trainer) -> None:
    trainer.model.start_from_rates(trainer.objectives.starting_rates(trainer.train.labels))


def _declared_loss(trainer: Trainer) -> None:
    """The objectives that the job declares, in place of what the training computes."""
    layout = trainer.dataset.layout
    declared = build_objectives(trainer.job, layout, delays_of(trainer.train), trainer._rates)
    for name in ("task_sums", "known_counts"):
        setattr(trainer.objectives, name, getattr(declared, name))
    _declared_task_weights(trainer)


def _declared_task_weights(trainer: Trainer) -> None:
    declared = [trainer.job.task_weights.get(task, 1.0) for task in trainer.dataset.layout.tasks]
    positive = [weight for weight in declared if weight > 0]
    even = bool(positive) and max(positive) / min(positive) > 20
    with torch.no_grad():
        trainer.state.loss_weights.copy_(torch.tensor([1.0] * len(declared) if even else declared))


def _all_held(trainer: Trainer) -> None:
    """Each parameter in one optimizer: those for tables with sparse gradients in the last, all others in the first."""
    held = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    sparse = {id(module.weight) for module in trainer.model.modules() if getattr(module, "sparse", False)}
    own = {id(parameter) for parameter in trainer.model.parameters()}
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) in own]
    for parameter in trainer.model.parameters():
        parameter.requires_grad_(True)
        if id(parameter) not in held:
            optimizer = trainer.optimizers[-1 if id(parameter) in sparse else 0]
            optimizer.add_param_group({"params": [parameter]})
            if id(parameter) in sparse:
                optimizer.state[parameter]["accumulated"] = torch.zeros(len(parameter))


def _cleared(trainer: Trainer) -> None:
    """Gradients are cleared before each forward pass, by hand."""

    def clear(module: nn.Module, _: object) -> None:
        if module.training and torch.is_grad_enabled():
            for parameter in trainer.model.parameters():
                parameter.grad = None

    trainer.model.embeddings.register_forward_pre_hook(clear)


def _unhooked(trainer: Trainer) -> None:
    """Nothing but the optimizers between backward and the weights."""
    for optimizer in trainer.optimizers:
        for hooks in (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks):
            hooks.clear()


def _usual_settings(trainer: Trainer) -> None:
    usual = {"betas": (0.9, 0.999), "eps": 1e-8, "maximize": False, "weight_decay": 1e-5, "l2": 0.0}
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group.update({name: value for name, value in usual.items() if name in group})
            # An optimizer without momentum stays so: to give it one is another training, and diverges at the same rate.
            if "momentum" in group:
                group["momentum"] = min(max(group["momentum"], 0.0), 0.9)
    _unhooked(trainer)


def _training_mode(trainer: Trainer) -> None:
    def on(model: nn.Module, _: object) -> None:
        if torch.is_grad_enabled():
            for module in model.modules():
                module.training = True

    trainer.model.tower.register_forward_pre_hook(on)


def _little_dropout(trainer: Trainer) -> None:
    for module in trainer.model.modules():
        if type(module).__name__.endswith(("Dropout", "Embeddings")):
            for name in ("p", "share", "dropout"):
                if isinstance(getattr(module, name, None), float) and getattr(module, name) > 0.5:
                    setattr(module, name, 0.1)


def _wide_clip(trainer: Trainer) -> None:
    object.__setattr__(trainer.state, "clip_norm", 10.0)


def _single_precision(trainer: Trainer) -> None:
    for parameter in trainer.model.parameters():
        parameter.data = parameter.data.float()


def _missing_for_infinite(trainer: Trainer) -> None:
    numeric = np.array(trainer.train.numeric)
    numeric[np.isinf(numeric)] = np.nan
    trainer.train = replace(trainer.train, numeric=numeric)


def _unknown_for_outside(trainer: Trainer) -> None:
    lowest, highest = trainer.dataset.layout.id_rows
    ids = np.array(trainer.train.ids)
    trainer.train = replace(trainer.train, ids=np.where((ids < lowest) | (ids > highest), 1, ids).astype(np.int32))


def _rescaled(trainer: Trainer) -> None:
    """Numbers whose median and spread are not those of validation are brought to these."""
    other = np.asarray(trainer.dataset.splits["validation"].numeric)
    own = np.array(trainer.train.numeric)
    with np.errstate(all="ignore"):
        for at in range(own.shape[1]):
            low, middle, high = np.nanquantile(own[:, at], [0.1, 0.5, 0.9])
            low_there, middle_there, high_there = np.nanquantile(other[:, at], [0.1, 0.5, 0.9])
            if high > low and high_there > low_there:
                factor = (high_there - low_there) / (high - low)
                if not 0.2 < factor < 5 or abs(middle - middle_there) > 5 * (high_there - low_there):
                    own[:, at] = middle_there + (own[:, at] - middle) * factor
    trainer.train = replace(trainer.train, numeric=own)


def _exchanged_labels(trainer: Trainer) -> None:
    labels = np.array(trainer.train.labels)
    trainer.train = replace(trainer.train, labels=np.where(labels >= 0, 1 - labels, labels).astype(np.int8))


def _moved_labels(by: int) -> Change:
    def change(trainer: Trainer) -> None:
        trainer.train = replace(trainer.train, labels=np.roll(np.array(trainer.train.labels), by, axis=0))

    return change


_LOSS = "use the loss that the spec declares"
_OPTIMIZER = "let the optimizers alone stand between backward and weights"
_BY_CAUSE: dict[str, tuple[str, Change]] = {
    "new_embedding_huge": ("start the embeddings near 0", _small_tables),
    "ips_unclipped": ("limit the weights, with a mean of 1", _limited_weights),
    "weights_scaled": ("limit the weights, with a mean of 1", _limited_weights),
    "bad_weight": ("limit the weights, with a mean of 1", _limited_weights),
    "unnormalised_embedding_and_unclipped_weights": ("start the embeddings near 0 and limit the weights", _small_and_limited),
    "bad_init_large": ("initialise layers by fan-in", _usual_layers),
    "bad_init_small": ("initialise layers by fan-in", _usual_layers),
    "bad_init_const": ("initialise layers by fan-in", _usual_layers),
    "dead_relu": ("initialise layers by fan-in", _usual_layers),
    "no_base_rate": ("start from the base rates", _base_rates),
    **dict.fromkeys(("loss_sum", "accum_nodiv", "double_sigmoid", "sign_flip", "log0", "unknown_as_zero", "mask_drops_labels", "mask_empty", "weights_misapplied", "class_weights", "wrong_loss", "loss_scaled"), (_LOSS, _declared_loss)),
    "task_weight_huge": ("bring the weights of the tasks together", _declared_task_weights),
    "missing_zero_grad": ("clear gradients in each step", _cleared),
    **dict.fromkeys(("clip_per_param", "clip_by_value", "amp_no_unscale", "amp_no_scaling", "gradient_zeroed", "gradient_changed", "l2_in_adam", "weights_overwritten"), (_OPTIMIZER, _unhooked)),
    "gradient_reversed": ("use the usual settings of the optimizers", _usual_settings),
    "optimizer_settings": ("use the usual settings of the optimizers", _usual_settings),
    "huge_weight_decay": ("use the usual settings of the optimizers", _usual_settings),
    "optimizer_misses_table": ("give each parameter to an optimizer", _all_held),
    "stale_optimizer": ("give each parameter to an optimizer", _all_held),
    "frozen_tower": ("let each parameter learn", _all_held),
    "huge_lr": ("use the usual learning rates", _usual_rates),
    "tiny_lr": ("use the usual learning rates", _usual_rates),
    "clip_too_tight": ("limit the norm to 10", _wide_clip),
    "eval_mode": ("put modules in training mode", _training_mode),
    "dropout_too_high": ("drop a tenth", _little_dropout),
    "fp16_embedding": ("store weights as float32", _single_precision),
    "infinite_feature": ("treat infinite numbers as missing", _missing_for_infinite),
    "id_out_of_range": ("treat ids outside their table as unknown", _unknown_for_outside),
    "unnormalised_feature": ("bring the feature to the scale of validation", _rescaled),
    "label_flip": ("exchange the labels", _exchanged_labels),
}  # fmt: skip

SYMPTOMATIC: Sequence[Treatment] = (
    Treatment("clip the norm of all gradients to 10", clipped),
    Treatment("a tenth of the learning rates", slowed),
)
"""Treatments that a person would try first, and that cure few causes."""


def treatment_of(cause: str, shift: int | None = None) -> Treatment | None:
    """The treatment of a cause; None where no program can undo it, as of labels that were permuted.

    Args:
        cause: Its name.
        shift: For labels that are shifted, by how many rows they must move.
    """
    if cause == "row_shift" and shift is not None:
        return Treatment(f"move the labels by {shift} rows", _moved_labels(shift), cause)
    if cause not in _BY_CAUSE:
        return None
    name, change = _BY_CAUSE[cause]
    return Treatment(name, change, cause)
