"""What lies between backward and weights: the gradients that optimizers receive, and what they write."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ctr_pipeline.gradients.contracts.outcome import listed
from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.forms import form_of, is_apart

SAME = 0.999
"""Cosine from which two gradients have one direction."""

EXACT = 1e-3
"""Difference of a gradient from what it should be, relative to its largest value, that rounding in 32 bits does not make."""

CLOSE = 0.01
"""Relative difference of factors that counts as none."""


@dataclass(frozen=True, slots=True)
class Received:
    """A gradient of the loss, and what reached the optimizer instead.

    Attributes:
        name: Name of the parameter.
        expected: The gradient of the loss; of a sparse one its values.
        found: What the optimizer received.
    """

    name: str
    expected: Tensor
    found: Tensor

    @property
    def factor(self) -> float:
        """By how much it is longer, along the expected direction."""
        size = float((self.expected * self.expected).sum())
        return float((self.expected * self.found).sum()) / size if size else math.nan

    @property
    def cosine(self) -> float:
        """Of the angle between both; NaN where one of them is 0."""
        product = float((self.expected * self.found).sum())
        scale = float(self.expected.norm()) * float(self.found.norm())
        return product / scale if scale else math.nan


def received_clues(gradients: Sequence[Received], clip_norm: float) -> Iterator[Clue]:
    """Clues from the gradients of one step, in float64.

    Args:
        gradients: Of each parameter that has one.
        clip_norm: The norm to which the step limits all of them together.
    """
    gradients = [g for g in gradients if g.expected.numel() and float(g.expected.abs().max()) > 0]
    if not gradients or any(not bool(torch.isfinite(g.found).all()) for g in gradients):
        return
    norm = float(torch.stack([g.expected.norm() for g in gradients]).norm())
    clip = min(1.0, clip_norm / norm) if norm else 1.0
    empty = [g for g in gradients if not float(g.found.abs().max())]
    rest = [g for g in gradients if float(g.found.abs().max()) > 0]
    if empty and rest:
        text = f"the loss has a gradient for {listed([g.name for g in empty])}, and the optimizer receives 0"
        yield Clue(cause="gradient_zeroed", weight=0.9, text=text, location=empty[0].name, separating=True)
    if not rest:
        text = "every gradient that the optimizers receive is 0"
        yield Clue(cause="gradient_zeroed", weight=0.7, text=text)
        return
    lost = sum(int(((g.expected != 0) & (g.found == 0)).sum()) for g in rest)
    wanted = sum(int((g.expected != 0).sum()) for g in rest)
    if lost > 0.01 * wanted:
        yield from _lost_clues(rest, lost / wanted)
        return
    reversed_ones = [g for g in rest if g.cosine < -SAME]
    turned = [g for g in rest if not abs(g.cosine) >= SAME]
    # Of a few elements noise has any sign: where other tensors are turned otherwise, this is no reversal.
    if reversed_ones and not turned:
        text = f"the optimizer receives the gradient of {listed([g.name for g in reversed_ones])} with the wrong sign"
        yield Clue(cause="gradient_reversed", weight=0.93, text=text, location=reversed_ones[0].name, separating=True)
        return
    if turned:
        yield from _turned_clues(turned, rest)
        return
    wrong = list(_factor_clues(rest, clip))
    yield from wrong or _inexact_clues(rest)


def _inexact_clues(gradients: Sequence[Received]) -> Iterator[Clue]:
    """Gradients of the right length and direction that are not equal: rounded, or otherwise in some places."""
    for gradient in gradients:
        expected = gradient.factor * gradient.expected
        if is_apart(gradient.found, expected, EXACT):
            text = f"the gradient of {gradient.name} that the optimizer receives is not that of the loss: {form_of(gradient.found, expected).text}"
            yield Clue(cause="gradient_changed", weight=0.85, text=text, location=gradient.name, separating=True)
            return


def _lost_clues(gradients: Sequence[Received], share: float) -> Iterator[Clue]:
    # What 16 bits held is rounded to them; values that are equal to the last bit went another way.
    left = [Received(g.name, g.expected[g.found != 0], g.found[g.found != 0]) for g in gradients]
    if all(not is_apart(g.found, g.factor * g.expected, EXACT / 10) for g in left):
        text = f"{share:.1%} of the gradients are exactly 0 when the optimizer gets them, and the others are what they should be"
        yield Clue(cause="gradient_zeroed", weight=0.93, text=text, separating=True)
        return
    # Tensor by tensor: what falls below the range of 16 bits is what is smallest.
    lost = smallest_lost = 0
    for gradient in gradients:
        size = gradient.expected.abs()
        gone = (gradient.found == 0) & (size > 0)
        if bool(gone.any()):
            kept = size[gradient.found != 0]
            lost += int(gone.sum())
            smallest_lost += int((size[gone] <= 1.5 * float(kept.min())).sum()) if len(kept) else 0
    smallest = smallest_lost >= 0.95 * lost
    if smallest:
        text = f"{share:.1%} of the gradients, the smallest ones, are exactly 0 when the optimizer gets them: they fell below what 16 bits hold"
        yield Clue(cause="amp_no_scaling", weight=0.93, text=text, separating=True)
    else:
        text = f"{share:.1%} of the gradients are exactly 0 when the optimizer gets them, large ones among them"
        yield Clue(cause="gradient_zeroed", weight=0.7, text=text)
        yield Clue(cause="gradient_changed", weight=0.6, text=text)


def _turned_clues(turned: Sequence[Received], gradients: Sequence[Received]) -> Iterator[Clue]:
    limited = [g for g in turned if _is_clamped(g)]
    names = listed([g.name for g in turned])
    if len(limited) == len(turned):
        limit = max(float(g.found.abs().max()) for g in limited)
        text = f"gradients of {names} are cut off at {limit:.3g}, value by value"
        yield Clue(cause="clip_by_value", weight=0.93, text=text, separating=True)
        return
    worst = min(turned, key=lambda g: g.cosine)
    many = [g for g in turned if g.found.numel() > 2]
    if many and all(len(torch.unique(g.found[g.found != 0].abs())) == 1 for g in many):
        text = f"of the gradients of {names} the sign alone is left"
        yield Clue(cause="gradient_changed", weight=0.93, text=text, location=worst.name, separating=True)
        return
    text = f"the gradient of {worst.name} that the optimizer receives is not that of the loss (cosine {worst.cosine:.3f}); {len(turned)} of {len(gradients)} tensors are changed"
    yield Clue(cause="gradient_changed", weight=0.8, text=text, location=worst.name)


def _is_clamped(gradient: Received) -> bool:
    """Whether the largest values are equal, and the others as expected up to a common factor."""
    size = gradient.found.abs()
    limit = float(size.max())
    at_limit = size >= limit * (1 - 1e-5)
    # A limit makes nothing larger than it was.
    if int(at_limit.sum()) < 2 or float(gradient.expected.abs()[at_limit].min()) < limit * (1 - 1e-3):
        return False
    inside = ~at_limit
    if not bool(inside.any()):
        return bool((gradient.expected.sign() == gradient.found.sign()).all())
    factor = float(
        (gradient.expected[inside] * gradient.found[inside]).sum()
        / gradient.expected[inside].square().sum().clamp_min(1e-300)
    )
    apart = (gradient.found[inside] - factor * gradient.expected[inside]).abs().max()
    return float(apart) <= 1e-2 * limit


def _factor_clues(gradients: Sequence[Received], clip: float) -> Iterator[Clue]:
    """All have their own direction; their lengths tell."""
    factors = {g.name: g.factor / clip for g in gradients}
    wrong = {name: value for name, value in factors.items() if abs(value - 1) > CLOSE}
    if not wrong:
        return
    values = list(wrong.values())
    middle = median(values)
    alike = max(abs(value / middle - 1) for value in values) <= CLOSE
    names, power = listed(list(wrong)), round(math.log2(abs(middle))) if middle > 0 else 0
    if alike and power >= 8 and abs(middle / 2**power - 1) <= CLOSE:
        text = f"gradients of {names} are {middle:.6g} times as large as those of the loss: a loss scale that is a power of two is not removed"
        yield Clue(cause="amp_no_unscale", weight=0.93, text=text, separating=True)
    elif alike and middle > 1 and abs(middle - round(middle)) <= CLOSE * middle and len(wrong) == len(factors):
        text = f"gradients are {middle:.4g} times those of the loss, as of parts that are added and not divided"
        yield Clue(cause="accum_nodiv", weight=0.85, text=text)
        yield Clue(cause="gradient_changed", weight=0.4, text=text)
    elif alike:
        text = f"gradients of {names} are {middle:.4g} times as large as those of the loss"
        if len(wrong) == len(factors) and power <= -8 and abs(middle / 2**power - 1) <= CLOSE:
            text += ": they are divided by a loss scale twice, or were limited while they carried it"
        # The loss of the rehearsal is that of the step: whatever multiplies both is no reason.
        yield Clue(cause="gradient_changed", weight=0.93, text=text, location=next(iter(wrong)), separating=True)
    else:
        shortened = {g.name: float(g.found.norm()) for g in gradients if g.name in wrong}
        limit = max(shortened.values())
        at_limit = [name for name, value in shortened.items() if abs(value / limit - 1) <= 0.02]
        if len(at_limit) >= max(2, 0.6 * len(shortened)) and all(value < 1 for value in values):
            text = f"each gradient of {names} has a norm of {limit:.3g} when the optimizer gets it: they are limited one by one"
            yield Clue(cause="clip_per_param", weight=0.93, text=text, separating=True)
        else:
            text = f"gradients of {names} have their own direction and other lengths ({min(values):.3g} to {max(values):.3g} times)"
            yield Clue(cause="gradient_changed", weight=0.75, text=text)
            yield Clue(cause="clip_per_param", weight=0.5, text=text)


@dataclass(frozen=True, slots=True)
class Written:
    """A parameter before and after a step.

    Attributes:
        name: Its name.
        before: Its values before.
        after: Those after it.
        expected: Those that its optimizer alone would have written; None where no optimizer holds it.
        table: Whether it is an embedding table; its rows are then looked at one by one.
    """

    name: str
    before: Tensor
    after: Tensor
    expected: Tensor | None
    table: bool


def late_clues(
    received: Mapping[str, Tensor], own: Mapping[str, Tensor], earlier: Mapping[str, Tensor]
) -> Iterator[Clue]:
    """Whether the optimizers receive the gradients of the step before.

    Args:
        received: What they received in a step, of dense parameters.
        own: The gradients of the loss in that step.
        earlier: Those in the step before.
    """
    names = [
        n for n, g in received.items() if n in own and n in earlier and own[n].shape == g.shape == earlier[n].shape
    ]
    if not names:
        return
    found, now, before = (torch.cat([part[n].flatten() for n in names]) for part in (received, own, earlier))
    late = Received("", before, found).cosine
    if late >= SAME and not Received("", now, found).cosine >= SAME:
        text = f"the gradients that the optimizers receive are those of the step before (cosine {late:.4f})"
        yield Clue(cause="stale_gradients", weight=0.95, text=text, separating=True)


def _rounded(parameters: Sequence[Written], wrong: Sequence[str]) -> str:
    """The 16-bit format to which the ``wrong`` parameters are rounded; empty where it is none."""
    own = [(p.after, p.expected) for p in parameters if p.name in wrong and p.expected is not None]
    for kind in (torch.bfloat16, torch.float16):
        # An element at the edge of two numbers may be rounded either way.
        same = [float((after == expected.to(kind).to(after.dtype)).float().mean()) for after, expected in own]
        if same and min(same) > 0.99:
            return str(kind).removeprefix("torch.")
    return ""


def written_clues(
    parameters: Sequence[Written], rates: Mapping[str, float], first: Mapping[str, Tensor] | None = None
) -> Iterator[Clue]:
    """Clues from what a step wrote.

    Args:
        parameters: All of them.
        rates: Learning rate by parameter.
        first: Values of before the first step, by name.
    """
    apart_names = [p.name for p in parameters if _is_apart(p)]
    if apart_names and (kind := _rounded(parameters, apart_names)):
        text = f"{listed(apart_names)}: what a step wrote is rounded to {kind}: small updates are lost"
        yield Clue(cause="fp16_embedding", weight=0.95, text=text, location=apart_names[0], separating=True)
        return
    after = {p.name: p.after for p in parameters}
    wrong: list[tuple[str, float]] = []
    for found in parameters:
        if found.name not in apart_names:
            continue
        expected = found.before if found.expected is None else found.expected
        apart = (found.after - expected).abs()
        step = (expected - found.before).abs()
        if found.table and found.expected is not None:
            still = step.amax(dim=1) == 0
            moved = apart.amax(dim=1) > 0
            if bool((still & moved).any()) and float((still & moved).sum()) > 0.3 * float(still.sum()):
                by = float(apart[still & moved].max()) / (rates.get(found.name) or 1.0)
                kept = float(found.after[still & moved].norm() / found.before[still & moved].norm().clamp_min(1e-12))
                text = f"{int((still & moved).sum())} rows of {found.name} that the batch does not read moved by up to {by:.3g} learning rates (to {kept:.5g} of their length)"
                if kept < 0.999 or by < 3:
                    yield Clue(cause="l2_in_adam", weight=0.93, text=text, location=found.name, separating=kept < 1)
                else:
                    yield Clue(cause="weights_overwritten", weight=0.85, text=text, location=found.name)
                continue
        wrong.append((found.name, float(apart.norm()) / max(float((expected - found.before).norm()), 1e-12)))
    if wrong:
        name, by = max(wrong, key=lambda item: item[1])
        text = f"{listed([n for n, _ in wrong])}: what a step wrote is not what the optimizer writes (up to {by:.3g} of its update apart)"
        if first and all(n in first and torch.equal(first[n], after[n]) for n, _ in wrong):
            text += "; these weights are those of before the first step"
        yield Clue(cause="weights_overwritten", weight=0.93, text=text, location=name, separating=True)


def _is_apart(found: Written) -> bool:
    """Whether a parameter is not what its optimizer would have written; one that is not finite is another fault."""
    if not bool(torch.isfinite(found.after).all()) or not found.after.numel():
        return False
    expected = found.before if found.expected is None else found.expected
    apart, step = (found.after - expected).abs(), (expected - found.before).abs()
    return float(apart.max()) > 1e-3 * float(step.max()) + 1e-6 * float(found.before.abs().max())


def state_clues(optimizer: torch.optim.Optimizer, updates: int) -> Iterator[Clue]:
    """Clues from the state of an optimizer that has made some updates: it remembers them.

    Args:
        optimizer: About to make its next update.
        updates: Those that it has made.
    """
    kind = type(optimizer).__name__
    remembers = any("betas" in group or group.get("momentum", 0) for group in optimizer.param_groups)
    states = list(optimizer.state.values())
    counted = [float(state["step"]) for state in states if "step" in state]
    sums = [float(state["accumulated"].sum()) for state in states if "accumulated" in state]
    lost = (
        (remembers and not states)
        or (bool(counted) and max(counted) < 0.5 * updates)
        or (bool(sums) and max(sums) == 0)
    )
    if updates >= 2 and lost:
        text = f"{kind} has made {updates} updates, and its state knows of {max(counted, default=0):g}"
        yield Clue(cause="optimizer_state_reset", weight=0.9, text=text, location=kind, separating=True)
