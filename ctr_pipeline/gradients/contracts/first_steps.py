"""Watches the first updates of a training through the hooks of its optimizers; a step needs no line for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.clip_direction import LEAST_COSINE, cosine, gradient_values
from ctr_pipeline.gradients.contracts.gradient_reset import gradients_at_start
from ctr_pipeline.gradients.contracts.optimizer_settings import decay_outcome
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.untouched_rows import LIMIT, NAME, learning_rates
from ctr_pipeline.gradients.contracts.update_size import peak_factors, update_ratio, update_ratio_outcome
from ctr_pipeline.gradients.contracts.weight_movement import movement_outcome, note_gradients

UPDATES = 3
"""Updates that are watched."""

MOST_LOST = 0.01
"""Share of the gradients that may be 0 in the step and not in its rehearsal."""

SAMPLED = 1 << 20
"""Elements of a tensor that are compared; of a larger one, evenly spread rows."""


class FirstSteps:
    """From its making on, compares weights before and after each update, until :data:`UPDATES` of them or :meth:`close`.

    Args:
        model: The model.
        optimizers: Those that update it, in the order in which they step.
        started: A module that the forward pass runs between the clearing of gradients and backward.
        peaks: Largest learning rate that each optimizer will have; updates are not judged by their size without it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        started: nn.Module,
        peaks: Sequence[float] = (),
    ) -> None:
        self._model, self._optimizers = model, optimizers
        self._updates = 0
        self._moved: set[str] = set()
        self._reached = {name: False for name, _ in model.named_parameters()}
        self._sizes = dict.fromkeys(self._reached, 0.0)
        self._before: dict[str, tuple[Tensor | None, Tensor]] = {}
        self._tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self._expected: Mapping[str, Tensor] = {}
        self._found: list[Outcome] = []
        self._untouched = 0.0, ""
        self._peaks = list(peaks)
        self._ratios: dict[str, float] = {}
        self.outcomes: list[Outcome] = []
        self._handles: list[Any] = [
            started.register_forward_pre_hook(lambda *_: self._at_start()),
            *([optimizers[0].register_step_pre_hook(lambda *_: self._keep())] if optimizers else []),
            *([optimizers[-1].register_step_post_hook(lambda *_: self._compare())] if optimizers else []),
        ]

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self._updates

    @property
    def done(self) -> bool:
        """Whether nothing more is watched."""
        return not self._handles

    def close(self) -> None:
        """Watch no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def broken(self) -> Outcome | None:
        """The first contract that was found broken since the last call."""
        found, self._found = self._found, []
        return next((outcome for outcome in found if outcome.failed and outcome.hard), None)

    def expect(self, gradients: Mapping[str, Tensor]) -> None:
        """The next update is to follow these gradients (of a sparse one, its values), whatever their common length."""
        self._expected = gradients

    def _at_start(self) -> None:
        if torch.is_grad_enabled() and self._updates and (found := gradients_at_start(self._model)).failed:
            self._report(found)
            self.close()

    @torch.no_grad()
    def _keep(self) -> None:
        note_gradients(self._model, self._reached, self._sizes)
        if not self._updates:
            self._report(decay_outcome(self._optimizers, self._model.named_parameters()))
        if self._expected:
            self._report(received_outcome(self._model, self._expected))
            self._expected = {}
        self._before = {}
        for name, parameter in self._model.named_parameters():
            rows = _compared_rows(parameter)
            values = parameter.detach() if rows is None else parameter.detach().index_select(0, rows)
            self._before[name] = rows, values.clone()

    @torch.no_grad()
    def _compare(self) -> None:
        self._updates += 1
        named = dict(self._model.named_parameters())
        rates = learning_rates(named.items(), self._optimizers)
        factors = peak_factors(list(self._optimizers), self._peaks) if self._peaks else {}
        for name, (rows, before) in self._before.items():
            parameter = named[name]
            after = parameter.detach() if rows is None else parameter.detach().index_select(0, rows)
            moved = (after - before).abs()
            if not moved.numel():
                continue
            if bool((moved > 0).any()):
                self._moved.add(name)
            if id(parameter) in factors and parameter.ndim > 1:
                ratio = factors[id(parameter)] * update_ratio(before, after, id(parameter) in self._tables)
                self._ratios[name] = max(self._ratios.get(name, 0.0), ratio)
            if (touched := self._touched(parameter)) is not None:
                own = touched if rows is None else touched.index_select(0, rows)
                largest = float(torch.where(own.unsqueeze(1), 0.0, moved).max()) / (rates.get(name) or 1.0)
                self._untouched = max(self._untouched, (largest, name))
        self._before = {}
        size = update_ratio_outcome(self._ratios)
        if self._peaks and (size.failed or self._updates == UPDATES):
            self._report(size)
        if self._untouched[0] > LIMIT or size.failed or self._updates == UPDATES:
            self._finish()

    def _touched(self, table: nn.Parameter) -> Tensor | None:
        """[rows] whether the batch read a row of ``table``; None where that is not known."""
        if table.grad is None or id(table) not in self._tables:
            return None
        if not table.grad.is_sparse:
            # With a dense gradient the averages of the optimizer rightly move rows of earlier batches.
            return (table.grad != 0).any(dim=1) if self._updates == 1 else None
        touched = torch.zeros(table.shape[0], dtype=torch.bool, device=table.device)
        touched[table.grad.coalesce().indices()[0]] = True
        return touched

    def _finish(self) -> None:
        self.close()
        largest, name = self._untouched
        message = (
            f"a row of table {name} that is not in the batch was moved by {largest:.3g} learning rates in one step (limit "
            f"{LIMIT:g}): a penalty or a decay inside the optimizer; regularise the rows of the batch only"
            if largest > LIMIT
            else f"rows that are not in a batch moved by {largest:.2g} learning rates at most"
        )
        self._report(
            Outcome(
                name=NAME, verdict="failed" if largest > LIMIT else "passed", message=message, measured=largest, limit=LIMIT,
                where=name,
            )
        )  # fmt: skip
        if self._updates == UPDATES:
            self._report(self._movement())
            if not any(found.name == "gradients_reset" for found in self.outcomes):
                self._report(gradients_at_start_passed())

    def _movement(self) -> Outcome:
        still = {
            name: parameter.detach() for name, parameter in self._model.named_parameters() if name not in self._moved
        }
        moved = {name: torch.empty(0) for name in self._moved}
        found = movement_outcome(self._model, still | moved, self._reached, self._sizes, self._updates)
        # Gradients of 0 have harmless causes too: a position that no row of these batches has, a task without labels.
        if found.failed and "a gradient of 0" in found.message:
            return Outcome(
                name=found.name, verdict="failed", message=found.message, measured=found.measured, limit=0.0,
                where=found.where, hard=False,
            )  # fmt: skip
        return found

    def _report(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._found.append(outcome)


def gradients_at_start_passed() -> Outcome:
    """The outcome of a run whose steps all started without gradients."""
    return Outcome(
        name="gradients_reset", verdict="passed", message="each step starts without gradients", measured=0.0, limit=0.0
    )


def received_outcome(model: nn.Module, expected: Mapping[str, Tensor]) -> Outcome:
    """Whether the gradients that the optimizers are about to follow point where ``expected`` does."""
    named = dict(model.named_parameters())
    received = {name: gradient_values(named[name]) for name in expected if named[name].grad is not None}
    pairs = [(expected[name], received.get(name, torch.zeros_like(expected[name]))) for name in expected]
    same = all(a.shape == b.shape for a, b in pairs)
    found = cosine([a for a, _ in pairs], [b for _, b in pairs]) if same else 0.0
    lost = _lost(pairs) if same else 0.0
    if found >= LEAST_COSINE and lost > MOST_LOST:
        message = (
            f"{lost:.1%} of the gradients are exactly 0 where those of the loss are not (at most {MOST_LOST:.0%} expected): they "
            "fell below what 16 bits hold; scale the loss (GradScaler), or use bf16"
        )
        return Outcome(name="first_gradient", verdict="failed", message=message, measured=lost, limit=MOST_LOST)
    if found >= LEAST_COSINE:
        message = f"the first update follows the gradient of the loss (cosine {found:.6f})"
        return Outcome(name="first_gradient", verdict="passed", message=message, measured=found, limit=LEAST_COSINE)
    alone = {
        name: cosine([a], [b]) if a.shape == b.shape else 0.0 for name, (a, b) in zip(expected, pairs, strict=True)
    }
    where = min(alone, key=lambda name: alone[name])
    why = (
        "each tensor keeps its own direction, so they are limited or scaled one by one: clip all of them by one norm"
        if alone[where] >= LEAST_COSINE
        else f"most of all that of {where} (cosine {alone[where]:.3g}): something changes gradients between backward and update"
    )
    message = (
        f"the gradients that the optimizers receive are not those of the loss (cosine {found:.4g}, at least {LEAST_COSINE:g} "
        f"expected); {why}"
    )
    return Outcome(
        name="first_gradient", verdict="failed", message=message, measured=found, limit=LEAST_COSINE, where=where
    )


def _lost(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Share of the elements that are expected to differ from 0 and do not."""
    wanted = sum(int((expected != 0).sum()) for expected, _ in pairs)
    zeros = sum(int(((expected != 0) & (found == 0)).sum()) for expected, found in pairs)
    return zeros / wanted if wanted else 0.0


def _compared_rows(parameter: nn.Parameter) -> Tensor | None:
    """Rows that are compared: those of a sparse gradient and evenly spread ones; all (None) of a small tensor."""
    if parameter.numel() <= SAMPLED or parameter.ndim < 2:
        return None
    height = parameter.shape[0]
    spread = torch.arange(0, height, max(1, height // 4096), device=parameter.device)
    if parameter.grad is not None and parameter.grad.is_sparse:
        spread = torch.cat([spread, parameter.grad.coalesce().indices()[0][:4096]])
    return spread
