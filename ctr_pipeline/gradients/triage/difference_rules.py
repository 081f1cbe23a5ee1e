"""What the forms of differences from the declared training say of causes: of its start, its forward pass, its settings."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.forms import Form, form_of, is_apart

SAME = 1e-6
"""Relative difference up to which weights and buffers before the first step are the same: they are drawn from the seed."""

LARGER, SMALLER = 1.5, 0.67
"""Times their declared size from which initial weights are larger, and up to which they are smaller."""

_SCALARS = (bool, int, float, str)


def initial_differences(own: nn.Module, declared: nn.Module) -> Iterator[Clue]:
    """Clues from the parts, weights and buffers of an untrained model beside those of the declared one."""
    yield from _part_clues(own, declared)
    tables = {f"{name}.weight" for name, module in declared.named_modules() if isinstance(module, nn.Embedding)}
    padding = {
        f"{name}.weight": module.padding_idx for name, module in declared.named_modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }  # fmt: skip
    parameters = dict(own.named_parameters())
    for name, wanted in declared.named_parameters():
        found = parameters.get(name)
        if found is None:
            text = f"the model has no {name}, which the declared one has"
            yield Clue(cause="initial_differs", weight=0.76, text=text, location=name)
        elif found.dtype != wanted.dtype:
            text = f"{name} is stored as {str(found.dtype).removeprefix('torch.')}, {wanted.dtype} is declared"
            yield Clue(cause="fp16_embedding", weight=0.93, text=text, location=name, separating=True)
        elif is_apart(found, wanted, SAME):
            if name in padding and not is_apart(_without(found, padding[name]), _without(wanted, padding[name]), SAME):
                text = f"the row of {name} for the places after the end of a list is not 0"
                yield Clue(cause="padding_row_trained", weight=0.93, text=text, location=name, separating=True)
            else:
                yield _weight_clue(name, found.detach(), wanted.detach(), table=name in tables)
        if found is not None and not found.requires_grad and wanted.requires_grad:
            text = f"requires_grad of {name} is False"
            yield Clue(cause="frozen_tower", weight=0.93, text=text, location=name, separating=True)
    for name in sorted(set(parameters) - {name for name, _ in declared.named_parameters()}):
        text = f"the model has {name}, which the declared one has not"
        yield Clue(cause="initial_differs", weight=0.76, text=text, location=name)
    buffers = dict(own.named_buffers())
    for name, meant in declared.named_buffers():
        there = buffers.get(name)
        if there is None or is_apart(there, meant, SAME):
            yield _buffer_clue(name, there, meant)


def _without(table: Tensor, row: int) -> Tensor:
    return torch.cat([table.detach()[:row], table.detach()[row + 1 :]])


def _part_clues(own: nn.Module, declared: nn.Module) -> Iterator[Clue]:
    """Parts that are of another type, or have other settings."""
    parts = dict(own.named_modules())
    for name, wanted in declared.named_modules():
        found, place = parts.get(name), name or "the model"
        if found is None or type(found) is not type(wanted):
            text = f"{place} is {'not there' if found is None else type(found).__name__}, and {type(wanted).__name__} is declared"
            yield Clue(cause="initial_differs", weight=0.76, text=text, location=place)
            continue
        for key, value in _settings(wanted).items():
            if key == "training" or (mine := getattr(found, key, None)) == value:
                continue
            text = f"{key} of {place} is {mine!r}, and {value!r} is declared"
            if key in ("p", "share", "dropout") and isinstance(mine, float | int) and mine > float(value):
                yield Clue(cause="dropout_too_high", weight=0.93, text=text, location=place, separating=True)
            elif key == "padding_idx":
                yield Clue(
                    cause="padding_row_trained", weight=0.9, text=text, location=f"{place}.weight", separating=True
                )
            elif key == "max_norm":
                # torch.nn.Embedding writes the shortened rows into its table.
                text += ": each lookup writes the rows that it reads"
                table = f"{place}.weight"
                yield Clue(cause="weights_overwritten", weight=0.93, text=text, location=table, separating=True)
            else:
                yield Clue(cause="initial_differs", weight=0.76, text=text, location=place)


def _settings(module: nn.Module) -> Mapping[str, Any]:
    return {
        key: value for key, value in vars(module).items()
        if not key.startswith("_") and (value is None or isinstance(value, _SCALARS)) and value == value
    }  # fmt: skip


def _weight_clue(name: str, found: Tensor, wanted: Tensor, *, table: bool) -> Clue:
    form = form_of(found, wanted)
    size, usual = (float(values.double().square().mean().sqrt()) for values in (found, wanted))
    ratio = size / usual if usual > 0 else float("inf") if size > 0 else 1.0
    text = f"{name} before the first step is not what the seed gives: {form.text}"
    if form.name == "shape":
        return Clue(cause="initial_differs", weight=0.76, text=text, location=name)
    if form.name == "not_finite":
        return Clue(cause="nonfinite_weight", weight=0.93, text=text, location=name, separating=True)
    if not table and found.ndim < 2:
        if name == "head.bias":
            return Clue(cause="no_base_rate", weight=0.93, text=text, location=name, separating=True)
        if float(found.median()) < -1 and float(found.median()) < float(wanted.median()) - 1:
            return Clue(cause="dead_relu", weight=0.85, text=text, location=name, separating=True)
        return Clue(cause="initial_differs", weight=0.76, text=text, location=name)
    if form.name == "constant" and len(found) > 1:
        return Clue(cause="bad_init_const", weight=0.93, text=text, location=name, separating=True)
    if ratio > LARGER:
        text += f"; its values are {ratio:.3g} times as large as meant"
        cause = "new_embedding_huge" if table else "bad_init_large"
        return Clue(cause=cause, weight=0.93, text=text, location=name, separating=True)
    if ratio < SMALLER:
        text += f"; its values are {ratio:.3g} times as large as meant"
        return Clue(cause="bad_init_small", weight=0.93, text=text, location=name, separating=True)
    return Clue(cause="initial_differs", weight=0.76, text=text, location=name)


def _buffer_clue(name: str, found: Tensor | None, wanted: Tensor) -> Clue:
    what = "is not there" if found is None else form_of(found.double(), wanted.double()).text
    text = f"the buffer {name} is not that of the layout: {what}"
    last = name.rsplit(".", 1)[-1]
    if last in ("offsets", "positions"):
        return Clue(cause="wrong_offsets", weight=0.93, text=text, location=name, separating=True)
    if name.startswith("numeric."):
        return Clue(cause="unnormalised_feature", weight=0.85, text=text, location=name, separating=True)
    return Clue(cause="initial_differs", weight=0.76, text=text, location=name)


CLOSED = 1e-2
"""Factor on the output of a part below which next to nothing passes it."""

_ANYWHERE: Mapping[str, tuple[str, float]] = {
    "not_finite": ("log_of_negative", 0.93),
    "rows_shifted": ("batch_mixing", 0.9),
    "rows_permuted": ("batch_mixing", 0.9),
    "centred": ("batch_mixing", 0.93),
    "rescaled": ("batch_mixing", 0.4),
    "sigmoid": ("double_sigmoid", 0.93),
    "dropped": ("dropout_too_high", 0.6),
    "zero": ("feature_ignored", 0.6),
    "constant": ("feature_ignored", 0.6),
}
"""Causes of the forms of a part's output."""

INPUTS = ("numeric", "embeddings")
"""Beginnings of the names of the parts that read features."""

_AT_LOGITS: Mapping[str, tuple[str, float]] = {
    "factor": ("temperature", 0.93),
    "offset": ("no_base_rate", 0.85),
    "zero": ("bounded_logits", 0.6),
    "constant": ("bounded_logits", 0.6),
    "limited": ("bounded_logits", 0.93),
    "sigmoid": ("double_sigmoid", 0.93),
}

_SURE_FORMS = ("not_finite", "rows_shifted", "rows_permuted", "centred", "sigmoid", "factor", "limited")


def forward_difference(place: str, form: Form, *, of_logits: bool) -> Iterator[Clue]:
    """Clues from the first part of the model whose output is not that of the declared one, given the same inputs.

    Args:
        place: Name of the part.
        form: The form in which its output differs.
        of_logits: Whether its outputs are the logits.
    """
    text = f"the output of {place} is not what its declared inputs and weights give: {form.text}"
    found = (_AT_LOGITS if of_logits else {}).get(form.name) or _ANYWHERE.get(form.name)
    closed = form.name == "zero" or (form.name == "factor" and abs(form.number) < CLOSED)
    if closed and not of_logits and not place.startswith(INPUTS):
        yield Clue(cause="detached_tower", weight=0.93, text=text, location=place, separating=True)
    elif found is None:
        yield Clue(cause="forward_differs", weight=0.76, text=text, location=place)
    else:
        sure = form.name in _SURE_FORMS
        yield Clue(cause=found[0], weight=found[1], text=text, location=place, separating=sure)


def setting_differences(name: str, kind: str, own: Mapping[str, Any], declared: Mapping[str, Any]) -> Iterator[Clue]:
    """Clues from the settings of a parameter's group when its optimizer makes an update.

    Args:
        name: The parameter.
        kind: Type of the optimizer.
        own: Its settings.
        declared: Those that it is meant to have, ``lr`` that of the schedule.
    """
    for key, wanted in declared.items():
        mine = own.get(key)
        if mine == wanted or not isinstance(wanted, (*_SCALARS, tuple)):
            continue
        if isinstance(mine, float | int) and isinstance(wanted, float) and abs(mine - wanted) <= 1e-6 * abs(wanted):
            continue
        shown = (
            f"{mine:.6g}, and {wanted:.6g}"
            if isinstance(mine, float) and isinstance(wanted, float)
            else f"{mine}, and {wanted}"
        )
        text = f"{key} of {kind} is {shown} is declared ({name})"
        cause, above = "optimizer_settings", isinstance(wanted, float | int) and float(mine or 0.0) > wanted
        if key == "lr":
            cause = "huge_lr" if above else "tiny_lr"
        elif key in ("weight_decay", "l2") and above:
            cause = "huge_weight_decay"
        elif key == "maximize":
            cause = "gradient_reversed"
        yield Clue(cause=cause, weight=0.93, text=text, location=name, separating=True)
        return
