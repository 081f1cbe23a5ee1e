"""What an untrained model and its optimizers say of causes, before any step."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.outcome import listed
from ctr_pipeline.gradients.triage.evidence import Clue

LARGE, SMALL = 5.0, 0.02
"""Root mean square of a layer's weights relative to 1/√(inputs), above and below which no usual initialisation lies."""

LARGE_TABLE, SMALL_TABLE = 10.0, 0.05
MOST_DROPOUT = 0.75

LONG_MOMENTUM = 0.995
"""Momentum up to which one above the usual may be meant."""


def model_clues(model: nn.Module) -> Iterator[Clue]:
    """Clues from modes, types, dropout, and values that are not finite."""
    stopped = [name or "the model" for name, module in model.named_modules() if not module.training]
    if stopped:
        text = f"{listed(stopped)} in evaluation mode while training"
        yield Clue(cause="eval_mode", weight=0.95, text=text, location=stopped[0], separating=True)
    for name, module in model.named_modules():
        share = _dropped(module)
        if share > MOST_DROPOUT:
            text = f"{name} drops {share:.0%} of what it is given"
            yield Clue(cause="dropout_too_high", weight=0.85, text=text, location=name, separating=True)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.is_floating_point():
            continue
        if value.dtype in (torch.float16, torch.bfloat16):
            text = f"{name} is stored as {str(value.dtype).removeprefix('torch.')}"
            yield Clue(cause="fp16_embedding", weight=0.9, text=text, location=name, separating=True)
        if not bool(torch.isfinite(value).all()):
            text = f"{name} has a value that is not finite before the first step"
            yield Clue(cause="nonfinite_weight", weight=0.95, text=text, location=name, separating=True)


def _dropped(module: nn.Module) -> float:
    """The share that a module for dropout drops, whatever it calls it; 0 for others."""
    if not type(module).__name__.endswith(("Dropout", "Embeddings")):
        return 0.0
    found = next((getattr(module, name) for name in ("p", "share", "dropout") if hasattr(module, name)), 0.0)
    return float(found) if isinstance(found, int | float) else 0.0


def initial_clues(
    model: nn.Module,
    tables: Mapping[str, tuple[Tensor, float]],
    table_names: Mapping[str, str],
    zeros: tuple[str, ...] = (),
) -> Iterator[Clue]:
    """Clues from the weights of a model that has not been trained.

    Args:
        model: The model.
        tables: By feature, rows [R, d] of its table and the root mean square that they are meant to have.
        table_names: By feature, the name of the table.
        zeros: Beginnings of the names of layers that are meant to start with zeros.
    """
    ratios: dict[str, float] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or not module.weight.numel():
            continue
        weight = module.weight.detach().double()
        if module.out_features > 1 and bool((weight == weight[:1]).all()) and bool((weight != 0).any()):
            text = f"the {module.out_features} units of {name} start with equal weights"
            yield Clue(cause="bad_init_const", weight=0.95, text=text, location=name, separating=True)
            continue
        ratio = float(weight.square().mean().sqrt()) * math.sqrt(module.in_features)
        ratios[name] = ratio
        if ratio < SMALL and not name.startswith(zeros):
            text = f"the weights of {name} start {ratio:.2g} times as large as 1/√(inputs)"
            yield Clue(
                cause="bad_init_small", weight=0.93 if ratio == 0 else 0.8, text=text, location=name, separating=True
            )
    if ratios and ratios[worst := max(ratios, key=lambda name: ratios[name])] > LARGE:
        text = f"the weights of {worst} start {ratios[worst]:.3g} times as large as 1/√(inputs) (usual: .1 to 2.5)"
        yield Clue(cause="bad_init_large", weight=0.92, text=text, location=worst, separating=True)
    yield from _table_clues(tables, table_names)


def _table_clues(tables: Mapping[str, tuple[Tensor, float]], names: Mapping[str, str]) -> Iterator[Clue]:
    sizes = {
        feature: float(rows.double().square().mean().sqrt()) / expected
        for feature, (rows, expected) in tables.items()
        if rows.numel() and expected > 0
    }
    if not sizes:
        return
    large, small = max(sizes, key=lambda f: sizes[f]), min(sizes, key=lambda f: sizes[f])
    if not sizes[large] <= LARGE_TABLE:
        text = f"the embeddings of feature {large} ({names[large]}) start {sizes[large]:.3g} times as large as meant"
        yield Clue(cause="new_embedding_huge", weight=0.93, text=text, location=large, separating=True)
    if sizes[small] < SMALL_TABLE:
        text = f"the embeddings of feature {small} ({names[small]}) start {sizes[small]:.2g} times as large as meant"
        yield Clue(cause="bad_init_small", weight=0.85, text=text, location=small, separating=True)
    for feature, (rows, _) in tables.items():
        if len(rows) > 2 and bool((rows == rows[:1]).all()) and bool((rows != 0).any()):
            text = f"all rows of feature {feature} start with the same embedding"
            yield Clue(cause="bad_init_const", weight=0.93, text=text, location=feature, separating=True)


def coverage_clues(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[Clue]:
    """Clues from which parameters the optimizers hold."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = Counter(id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    twice = [name for key, name in names.items() if held[key] > 1]
    stale = sum(count for key, count in held.items() if key not in names)
    if frozen:
        text = f"{listed(frozen)}: requires_grad is False"
        yield Clue(cause="frozen_tower", weight=0.95, text=text, location=frozen[0], separating=True)
    if stale:
        text = f"an optimizer holds {stale} tensors that are not in the model, and none holds {listed(missing) or 'others'}"
        yield Clue(cause="stale_optimizer", weight=0.95, text=text, location=next(iter(missing), None), separating=True)
    elif missing:
        text = f"no optimizer holds {listed(missing)}"
        yield Clue(cause="optimizer_misses_table", weight=0.95, text=text, location=missing[0], separating=True)
    if twice:
        text = f"{listed(twice)} held more than once"
        yield Clue(cause="parameter_held_twice", weight=0.95, text=text, location=twice[0], separating=True)


def setting_clues(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[Clue]:
    """Clues from the settings of the optimizers, but for learning rates."""
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        for group in optimizer.param_groups:
            if group.get("maximize"):
                text = f"{kind} maximises: the sign of its updates is reversed"
                yield Clue(cause="gradient_reversed", weight=0.93, text=text, location=kind, separating=True)
            first, second = group.get("betas", (0.0, 0.9))
            for name, value, usual in (
                ("beta 1", first, first <= 0.98),
                ("beta 2", second, 0.8 <= second < 1),
                ("momentum", group.get("momentum", 0.0), group.get("momentum", 0.0) <= 0.98),
                ("epsilon", group.get("eps", 1e-8), 1e-15 < group.get("eps", 1e-8) <= 1e-3),
            ):
                if not usual:
                    text = f"{name} of {kind} is {value:g}"
                    # A long average of gradients may be meant: with a lower learning rate it learns too.
                    long = name in ("beta 1", "momentum") and value <= LONG_MOMENTUM
                    weight = 0.8 if long else 0.88
                    yield Clue(cause="optimizer_settings", weight=weight, text=text, location=kind, separating=not long)
            decay = float(group.get("weight_decay", 0.0))
            if decay >= 0.3:
                text = f"the weight decay of {kind} is {decay:g}"
                yield Clue(cause="huge_weight_decay", weight=0.88, text=text, location=kind, separating=True)
            penalty = float(group.get("l2", 0.0))
            if penalty >= 0.03:
                text = f"the penalty of {kind} on embeddings is {penalty:g}"
                yield Clue(cause="huge_weight_decay", weight=0.85, text=text, location=kind, separating=True)
