"""What the optimizers of a training write in a step, and remember of it, beside what the declared ones do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.outcome import listed
from ctr_pipeline.gradients.triage.difference_rules import setting_differences
from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.forms import form_of, is_apart
from ctr_pipeline.gradients.triage.gradient_rules import Written, written_clues
from ctr_pipeline.gradients.triage.state_rules import ROUNDING, state_differences
from ctr_pipeline.training.declared_training import DeclaredTraining
from ctr_pipeline.training.step_recorder import Gradient, SparseGradient, StepRecorder

BUFFER = 1e-4
"""Relative difference of a buffer that counts as none: running means of 16-bit outputs are rounded."""

LARGE = 10_000_000
"""Values of a table above which the rows that a step read are compared alone, and none with those before the first step."""


@dataclass(frozen=True, slots=True)
class UpdateComparison:
    """The updates of one recorded step.

    Attributes:
        declared: The declared training, with the weights of before the step.
        recorder: What the step did.
        states: By parameter, copies of its optimizer's state when the step began.
        first: Copies of the weights before the first step.
    """

    declared: DeclaredTraining
    recorder: StepRecorder
    states: Mapping[str, Mapping[str, Any]]
    first: Mapping[str, Tensor]

    def clues(self, step: int) -> Iterator[Clue]:
        """Clues from the updates of ``step``."""
        state, own = self.recorder.state, self.recorder
        declared = self.declared.settings(step)
        kinds = {
            id(p): type(optimizer).__name__
            for optimizer in state.optimizers for group in optimizer.param_groups for p in group["params"]
        }  # fmt: skip
        for place, optimizer in enumerate(state.optimizers):
            times, kind = own.updates.get(place, 0), type(optimizer).__name__
            if times != 1 and own.backward:
                cause = "update_skipped" if times == 0 else "weights_overwritten"
                text = f"{kind} makes {times} updates in step {step}"
                yield Clue(cause=cause, weight=0.93, text=text, location=kind, separating=True)
        written, tables, rates = [], _tables(state.model), {}
        remembered: dict[str, Mapping[str, Any]] = {}
        for name, parameter in state.model.named_parameters():
            if name not in declared:
                continue
            kind, settings = declared[name]
            mine = kinds.get(id(parameter))
            if mine is not None and mine != kind:
                text = f"{name} is updated by {mine}, and {kind} is declared"
                yield Clue(cause="optimizer_settings", weight=0.85, text=text, location=name, separating=True)
                return
            if name in own.settings:
                yield from setting_differences(name, kind, own.settings[name], settings)
            before = self.declared.state.model.get_parameter(name).detach()
            if before.shape != parameter.shape or before.dtype != parameter.dtype:
                continue
            after, expected, whole = parameter.detach(), None, True
            gradient = own.received.get(name)
            if gradient is not None and (kind != "AdamW" or isinstance(gradient, Tensor)):
                # With the settings that it had: that they are not the declared ones is told apart.
                used = {key: own.settings[name].get(key, value) for key, value in settings.items()}
                expected, state_after = self.declared.updated(name, gradient, self.states.get(name, {}), (kind, used))
                remembered[name] = self._whole(name, gradient, state_after)
                if isinstance(gradient, SparseGradient) and before.numel() > LARGE:
                    before, after, whole = before[gradient.rows], after[gradient.rows], False
                elif isinstance(gradient, SparseGradient):
                    expected = before.index_copy(0, gradient.rows, expected)
            elif mine is not None and name not in own.backward:
                expected = before
            if expected is not None:
                # Of a part of a table nothing can be said of rows that were not read.
                written.append(Written(name, before, after, expected, whole and name in tables))
                rates[name] = float(settings["lr"])
        wrong = list(written_clues(written, rates, self.first))
        yield from wrong
        if not wrong and all(times == 1 for times in own.updates.values()):
            # Of what an optimizer remembers beyond it, as of what is too large, nothing is said.
            states = {
                name: {key: value for key, value in found.items() if key in remembered.get(name, {})}
                for name, found in states_of(state.model, state.optimizers).items()
            }
            yield from state_differences(states, remembered, f"after step {step}", ROUNDING)

    def _whole(self, name: str, gradient: Gradient, after: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of a parameter where ``after`` is that of the rows of ``gradient``; without what is too large."""
        found = {}
        for key, value in after.items():
            before = self.states.get(name, {}).get(key)
            if isinstance(gradient, SparseGradient) and isinstance(before, Tensor):
                if before.numel() > LARGE:
                    continue
                value = before.double().index_copy(0, gradient.rows, value.double())
            found[key] = value
        return found


def written_in_forward(before: nn.Module, at_loss: Mapping[str, Tensor]) -> Iterator[Clue]:
    """Clues from weights that are others after a forward pass than before it."""
    weights = dict(before.named_parameters())
    wrong = [name for name, value in at_loss.items() if name in weights and _moved(value, weights[name])]
    if wrong:
        text = f"the forward pass writes {listed(wrong)}"
        yield Clue(cause="weights_overwritten", weight=0.93, text=text, location=wrong[0], separating=True)


def changed_buffers(own: nn.Module, declared: Mapping[str, Tensor]) -> Iterator[Clue]:
    """Clues from buffers that a step leaves otherwise than the declared forward pass does."""
    found = dict(own.named_buffers())
    wrong = [name for name, value in declared.items() if name in found and is_apart(found[name], value, BUFFER)]
    if wrong:
        form = form_of(found[wrong[0]].double(), declared[wrong[0]].double()).text
        text = f"a step leaves the buffer {wrong[0]} otherwise than the declared forward pass: {form}"
        yield Clue(cause="weights_overwritten", weight=0.93, text=text, location=wrong[0], separating=True)


def _moved(value: Tensor, before: Tensor) -> bool:
    return value.shape == before.shape and value.dtype == before.dtype and is_apart(value, before.detach(), 0.0)


def copies_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters by name, without those of more than :data:`LARGE` values."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.numel() <= LARGE}


def states_of(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, dict[str, Any]]:
    """By parameter, copies of the state that its optimizer has of it."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        if id(p) in names
    }


def _tables(model: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
