"""Contracts of the ranker's training: before its first step, and in its first few."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.features.layout import FIRST_VOCABULARY_ROW, Layout
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.inputs import input_fault
from ctr_pipeline.gradients.adapters.logit_scale import logit_scale_outcome
from ctr_pipeline.gradients.adapters.rehearsal import (
    BuiltTraining,
    empty_mask_outcome,
    initial_tables,
    kept_buffers,
    loss_range_outcome,
    padding_rows,
    rehearse,
)
from ctr_pipeline.gradients.adapters.row_samples import paired_samples, sample_rows, spread_places
from ctr_pipeline.gradients.contracts.feature_profile import (
    funnel_outcome,
    row_shift_outcome,
    scale_outcome,
    single_feature_outcome,
)
from ctr_pipeline.gradients.contracts.first_steps import FirstSteps
from ctr_pipeline.gradients.contracts.id_profile import id_outcome
from ctr_pipeline.gradients.contracts.initial_state import (
    differing_units_outcome,
    live_units_outcome,
    table_scale_outcome,
    weight_outcome,
)
from ctr_pipeline.gradients.contracts.kept_state import kept_generators
from ctr_pipeline.gradients.contracts.known_values import known_values_outcome
from ctr_pipeline.gradients.contracts.optimizer_coverage import coverage_outcome
from ctr_pipeline.gradients.contracts.optimizer_settings import epsilon_outcome, settings_outcome
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.outcome_rates import outcome_rates_outcome
from ctr_pipeline.gradients.contracts.padding_rows import padding_outcome
from ctr_pipeline.gradients.contracts.parameter_types import parameter_type_outcome
from ctr_pipeline.gradients.contracts.random_batches import RandomBatches
from ctr_pipeline.gradients.contracts.reference_rows import reference_outcomes
from ctr_pipeline.gradients.contracts.sample_independence import check_cross_sample
from ctr_pipeline.gradients.contracts.standardisation import standardisation_outcome
from ctr_pipeline.gradients.contracts.starting_prediction import starting_prediction_outcome
from ctr_pipeline.gradients.contracts.training_mode import evaluation_outcome, mode_outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup
from ctr_pipeline.gradients.core.activations import observed_activations
from ctr_pipeline.gradients.core.diagnosis import Diagnosis
from ctr_pipeline.gradients.core.step_view import StepRecord

SAMPLED_ROWS = 20_000
CONSECUTIVE_ROWS = 10_000
LATE = 0.1
"""Last share of the training rows that is compared with the validation where the whole may differ by its age."""

INDEPENDENT_ROWS = 256
"""Rows of the batch whose independence of each other is looked at."""

FIRST_LOSS_LIMIT = 1e-3
HALF_LIMIT = 2e-2
"""Largest relative difference of the first loss from the rehearsed one, where the step computes in float32; in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenContract(Diagnosis):
    """A contract that stopped a training.

    Attributes:
        contract: Its name.
        measured: The number that was compared, where there is one.
        limit: What it was compared with.
    """

    contract: str
    measured: float | None
    limit: float | None


def broken_contract(outcome: Outcome, step: int) -> BrokenContract:
    """Why a training is stopped whose contract failed with ``outcome``."""
    return BrokenContract(
        kind="contract", tensor=outcome.where or outcome.name, feature=outcome.feature, row=None, step=step,
        message=f"step {step}: contract {outcome.name}: {outcome.message}",
        contract=outcome.name, measured=outcome.measured, limit=outcome.limit,
    )  # fmt: skip


class RankerContracts:
    """Checks a built training on its first batch, and watches its first updates. It changes nothing of the training.

    Args:
        built: The training.
        rows: The rows that it learns from.
        fresh: Whether the model is untrained; one that continues from a checkpoint need not predict the base rate.
        reference: Rows that it is validated on, with which the training rows are compared; None where there are none.
    """

    def __init__(
        self, built: BuiltTraining, rows: PackedSplit, fresh: bool, reference: PackedSplit | None = None
    ) -> None:
        self._built, self._rows, self._fresh, self._reference = built, rows, fresh, reference
        self._watch: FirstSteps | None = None
        self._own: list[Outcome] = []
        self._expected_loss: float | None = None
        self._digest = ""
        self._composition = RandomBatches(rows.labels, built.layout.tasks)
        self._composed: Outcome | None = None

    @property
    def outcomes(self) -> list[Outcome]:
        """All outcomes so far."""
        composed = [] if self._composed is None else [self._composed]
        return [*self._own, *composed, *(self._watch.outcomes if self._watch is not None else ())]

    @property
    def done(self) -> bool:
        """Whether nothing more is to be checked."""
        return self._watch is not None and self._watch.done

    def before(self, batch: BatchView, step: int) -> BrokenContract | None:
        """Call before each step with its batch, on the model's device, until :attr:`done`; the contract that is broken."""
        if input_fault(batch, self._built.layout, step) is not None:
            # The step refuses it, and names row and feature.
            return None
        digest = _digest(batch)
        found = self._before_first(batch) if self._watch is None else []
        if digest and digest == self._digest:
            found.append(_repeated())
        self._digest = digest
        self._own += found
        # Of all batches so far, so that it has one outcome.
        self._composed = self._composition.outcome(batch.labels.numpy(force=True))
        return self._first_broken([self._composed, *found], step)

    def after(self, record: StepRecord) -> BrokenContract | None:
        """Call after each step until :attr:`done`; the contract that is broken."""
        if self._watch is None:
            return None
        found = [] if self._expected_loss is None else [self._first_loss(record.loss, self._expected_loss)]
        if self._watch.updates == 1:
            found.append(epsilon_outcome(self._built.optimizers))
        self._expected_loss = None
        self._watch.expect({})
        self._own += found
        watched = self._watch.broken()
        return self._first_broken([*found, *([watched] if watched is not None else [])], record.step)

    def _before_first(self, batch: BatchView) -> list[Outcome]:
        built = self._built
        model = built.model
        found = [
            coverage_outcome(model, built.optimizers),
            settings_outcome(built.optimizers),
            parameter_type_outcome(model),
            padding_outcome(model, padding_rows(model)),
            mode_outcome(model),
            *profile(self._rows, built.layout, self._reference),
        ]
        started = next(module for name, module in model.named_modules() if name == "head")
        self._watch = FirstSteps(model, built.optimizers, started, built.peaks)
        if len(batch.labels) < 2 or any(outcome.failed and outcome.hard for outcome in found):
            return found
        rehearsal = rehearse(built, batch)
        if not bool(torch.isfinite(rehearsal.logits).all()):
            # The step stops, and names the first value that is not finite.
            return found
        self._expected_loss = rehearsal.loss
        self._watch.expect(rehearsal.gradients)
        found += [
            *rehearsal.outcomes,
            empty_mask_outcome(built, rehearsal.logits, batch),
            loss_range_outcome(built, batch),
        ]
        few = batch.each(lambda tensor: tensor[:INDEPENDENT_ROWS])
        with kept_generators(model), kept_buffers(model), torch.no_grad():
            setup = TrainingSetup(
                model=model, batch=few, forward=lambda _, batch: built.forward(batch), loss=lambda z, _: z.sum()
            )
            limit = 1e-5 if few.numeric.device.type == "cpu" and not built.half else 1e-3
            found.append(check_cross_sample(setup, limit=limit, double=False))
            model.eval()
            scores = built.forward(few)
            with observed_activations(model) as activations:
                again = built.forward(few)
            found.append(evaluation_outcome(scores, again, 0.0 if few.numeric.device.type == "cpu" else limit))
            found.append(logit_scale_outcome(built, few, scores))
            if self._fresh:
                found += [
                    differing_units_outcome(model),
                    live_units_outcome(activations),
                    table_scale_outcome(*initial_tables(model, built.layout)),
                ]
                found.append(starting_prediction_outcome(scores, built.rates, built.layout.tasks))
        return found

    def _first_loss(self, loss: float, expected: float) -> Outcome:
        limit = HALF_LIMIT if self._built.half else FIRST_LOSS_LIMIT
        error = abs(loss - expected) / max(abs(expected), 1e-6)
        error = error if error == error else math.inf
        message = f"the first step's loss is {loss:.6g}, and {expected:.6g} by its formula"
        if error > limit:
            message += (
                f" (largest difference {limit:g} of it): the step computes another loss than its objectives define, or draws "
                "other random numbers"
            )
        return Outcome(
            name="first_loss",
            verdict="failed" if error > limit else "passed",
            message=message,
            measured=error,
            limit=limit,
            where="loss",
        )

    def _first_broken(self, found: Sequence[Outcome], step: int) -> BrokenContract | None:
        broken = next((outcome for outcome in found if outcome.failed and outcome.hard), None)
        if broken is None:
            return None
        if self._watch is not None:
            self._watch.close()
        return broken_contract(broken, step)


def profile(rows: PackedSplit, layout: Layout, reference: PackedSplit | None = None) -> list[Outcome]:
    """What a sample of the training rows says of their features and labels; and beside the validation's, where they are given."""
    count = len(rows)
    spread = np.unique(np.linspace(0, count - 1, min(count, SAMPLED_ROWS)).astype(np.int64))
    middle = max(0, (count - CONSECUTIVE_ROWS) // 2)
    sample, neighbours = (
        sample_rows(rows, layout, chosen)
        for chosen in (spread, np.arange(middle, min(count, middle + CONSECUTIVE_ROWS)))
    )
    found = [] if reference is None else _beside(rows, spread, reference, layout)
    # A list that shares the vocabulary of another feature has an order of its own.
    own = [(c, place) for c, place in zip(layout.ids, layout.id_places, strict=True) if c.table is None]
    columns = [np.take(rows.ids[:, place], spread, axis=0).ravel() for _, place in own]
    return [
        scale_outcome(sample),
        id_outcome(
            columns,
            [column.name for column, _ in own],
            [column.rows for column, _ in own],
            FIRST_VOCABULARY_ROW,
        ),
        single_feature_outcome(sample),
        row_shift_outcome(neighbours),
        *found,
        funnel_outcome(sample.labels, layout.tasks, layout.parents),
        weight_outcome(
            torch.from_numpy(np.take(rows.weights, spread, axis=0)), torch.from_numpy(sample.labels), layout.tasks
        ),
        # Last: a feature that is made of the outcome, or is missing, has other statistics too.
        standardisation_outcome(sample),
    ]


def _beside(rows: PackedSplit, spread: NDArray[np.int64], reference: PackedSplit, layout: Layout) -> list[Outcome]:
    """What the training rows are beside those of the validation."""
    names = [column.name for column in layout.numeric], [column.name for column in layout.ids]
    # Not neighbours: of many rows a day they would be of different hours.
    late, all_of_them = spread_places(rows, SAMPLED_ROWS, LATE), spread_places(reference, SAMPLED_ROWS)
    places = [place.start for place in layout.id_places]
    labels = np.take(rows.labels, spread, axis=0)
    if rows.elapsed is not None:
        # Labels that are learnt while they are open are fewer at the end by design.
        labels = np.where(np.isfinite(np.take(rows.elapsed, spread, axis=0)), np.int8(-1), labels)
    return [
        *reference_outcomes(paired_samples(rows, reference, layout)),
        known_values_outcome(
            names, *((np.take(split.numeric, at, axis=0), np.take(split.ids, at, axis=0)[:, places]) for split, at in ((rows, late), (reference, all_of_them)))
        ),
        outcome_rates_outcome(labels, np.take(rows.ts, spread), np.asarray(reference.labels), layout.tasks),
    ]  # fmt: skip


def _digest(batch: BatchView) -> str:
    """Digest of the inputs and labels; empty for a batch whose rows are all alike, which may well come again."""
    content = torch.cat([batch.ids.double(), batch.numeric.double().nan_to_num(1e300), batch.labels.double()], dim=1)
    if len(content) < 2 or bool((content == content[:1]).all()):
        return ""
    return hashlib.sha256(content.cpu().numpy().tobytes()).hexdigest()


def _repeated() -> Outcome:
    message = (
        "two batches in a row are the same rows: the loader does not move on, or hands out a buffer that it reuses"
    )
    return Outcome(name="repeated_batch", verdict="failed", message=message, measured=1.0, limit=0.0, where="batch")


__all__ = ["BrokenContract", "BuiltTraining", "RankerContracts", "profile"]
