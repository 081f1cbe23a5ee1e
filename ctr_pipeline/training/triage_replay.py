"""Replays of a training with one remedy at a time: which one cures it, which one only hides what is wrong."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch

from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.triage.causes import INTERACTIONS
from ctr_pipeline.gradients.triage.hypothesis import Hypothesis, Remedy, Triage, Verdict
from ctr_pipeline.gradients.triage.ranking import is_sure, rank
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.scoring import validate
from ctr_pipeline.training.triage_remedies import SYMPTOMATIC, Treatment, treatment_of
from ctr_pipeline.training.triage_steps import run_window
from ctr_pipeline.training.triage_survey import survey

STEPS = 400
"""Steps of a replay, at most."""

TREATED = 3
"""Hypotheses whose remedies are tried."""

RESTORED = 0.03
"""Normalised entropy by which a replay may be behind the best one and counts as restored."""

STEADY = 15.0
"""Times of its median that the gradient norm of a sound replay stays below."""


@dataclass(slots=True)
class _Norms:
    """Stands for the contracts of a replay, and keeps norms and losses."""

    norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    active: bool = False

    def before(self, batch: BatchView, step: int) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing is held."""

    def after(self, record: StepRecord) -> None:
        """Keeps what the step measured."""
        self.norms.append(record.grad_norm)
        self.losses.append(record.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How a replay went.

    Attributes:
        finite: Whether every value stayed finite.
        steps: Steps taken.
        validation: Normalised entropy afterwards, of the best epoch where epochs ended; None where it is not known.
        largest: Largest gradient norm.
        typical: Median norm.
    """

    finite: bool
    steps: int
    validation: float | None
    largest: float
    typical: float

    @property
    def steady(self) -> bool:
        """Whether norms stayed in one range."""
        return self.finite and self.largest <= STEADY * max(self.typical, 1e-12)

    @property
    def ne(self) -> float:
        """Its validation; infinite where values were not finite or nothing is known."""
        known = self.finite and self.validation is not None and not math.isnan(self.validation)
        return float(self.validation or 0.0) if known else math.inf

    def __str__(self) -> str:
        """The numbers, a clause."""
        end = "finite" if self.finite else f"not finite at step {self.steps}"
        value = "" if self.validation is None else f", normalised entropy of the validation {self.validation:.3f}"
        return f"{end}, gradient norm up to {self.largest:.3g} (median {self.typical:.3g}){value}"


def replay(build: Callable[[Path], Trainer], folder: Path, treatment: Treatment | None = None) -> Replayed:
    """Trains once more for at most :data:`STEPS` steps, with a treatment or as it is.

    Args:
        build: Builds the training.
        folder: Receives what it writes.
        treatment: What is changed.
    """
    trainer = build(folder)
    if treatment is not None:
        treatment.change(trainer)
    watch = _Norms()
    stopped = run_window(trainer, STEPS, watch)
    norms = [norm for norm in watch.norms if math.isfinite(norm)]
    finite = stopped is None and len(norms) == len(watch.norms) > 0
    # A model far worse than a constant is stopped at the end, with all values finite.
    if stopped is not None and stopped.cause.kind == "divergence":
        finite = bool(norms)
    return Replayed(
        finite=finite, steps=trainer.step, validation=_validation(trainer) if finite else None,
        largest=max(norms, default=math.nan), typical=median(norms) if norms else math.nan,
    )  # fmt: skip


def _validation(trainer: Trainer) -> float | None:
    if math.isfinite(trainer.best_validation):
        return trainer.best_validation
    split = trainer.dataset.splits["validation"]
    if not len(split):
        return None
    with torch.no_grad():
        _, entropies = validate(trainer.model, trainer.objectives, split, trainer.group, lambda: None)
    known = [value for value in entropies if value is not None]
    return sum(known) / len(known) if known else None


def with_replays(found: Triage, build: Callable[[Path], Trainer], folder: Path, broke_at: int | None = None) -> Triage:
    """The triage with the verdicts of replays: of the remedies of its first hypotheses, and of symptomatic treatments.

    A training that broke and, built once more, does not break says nothing of remedies: it is not the same training.

    Args:
        found: The triage.
        build: Builds the training.
        folder: An empty folder for what replays write.
        broke_at: The step at which a value was not finite; None where none was.
    """
    parts = {cause for pair, name in INTERACTIONS.items() if name == found.hypotheses[0].cause for cause in pair}
    likely = [h for at, h in enumerate(found.hypotheses) if at < TREATED or h.cause in parts]
    own = [(h, treatment_of(h.cause, _shift_of(h))) for h in likely]
    treatments = [treatment for _, treatment in own if treatment is not None]
    if not treatments:
        return found
    as_it_is = replay(build, folder / "as_it_is")
    if broke_at is not None and as_it_is.finite:
        text = (
            f"built once more, the training does not break (it broke at step {broke_at}; now {as_it_is}): its code or its rows "
            "are others than then, so no remedy was tried"
        )
        return replace(found, sure=False, compared=(*found.compared, text))
    tried: list[tuple[Treatment, Replayed, bool]] = []
    for number, treatment in enumerate([*treatments, *SYMPTOMATIC]):
        went = replay(build, folder / f"remedy_{number}", treatment)
        cause = treatment.cause or found.hypotheses[0].cause
        left = _is_left(build, folder / f"survey_{number}", treatment, cause)
        tried.append((treatment, went, left))
    verdicts = _verdicts(as_it_is, tried)
    remedies = tuple(
        Remedy(
            name=treatment.name, verdict=verdict, found=f"with it: {went}; without: {as_it_is}", cause=treatment.cause
        )
        for (treatment, went, _), verdict in zip(tried, verdicts, strict=True)
    )
    by_cause = {remedy.cause: remedy for remedy in remedies if remedy.cause is not None}
    hypotheses = tuple(
        h.with_verdict(by_cause[h.cause].verdict, f"{by_cause[h.cause].name}: {by_cause[h.cause].verdict} ({by_cause[h.cause].found})")
        if h.cause in by_cause else h
        for h in found.hypotheses
    )  # fmt: skip
    return _weighed(found, [_together(h, by_cause, as_it_is) for h in hypotheses], remedies)


def _together(hypothesis: Hypothesis, tried: Mapping[str, Remedy], as_it_is: Replayed) -> Hypothesis:
    """An interaction is proved where the training breaks, and removing either of its causes alone cures it."""
    for pair, name in INTERACTIONS.items():
        cured = [cause for cause in pair if cause in tried and tried[cause].verdict == "cures"]
        if name == hypothesis.cause and len(cured) == len(pair) and not as_it_is.finite:
            text = f"without {' or without '.join(sorted(pair))} it does not break: both are needed"
            return replace(hypothesis, evidence=(*hypothesis.evidence, text), separating=True)
    return hypothesis


def _weighed(found: Triage, hypotheses: Sequence[Hypothesis], remedies: tuple[Remedy, ...]) -> Triage:
    """What cures moves up, what does nothing moves down; only what cures, or was not replayed, can be sure."""
    factor = {"cures": 1.0, "not replayed": 0.97, "masks": 0.8, "no effect": 0.6}
    ranked = sorted(hypotheses, key=lambda h: -h.score * factor[h.verdict])
    top_was, top_is = found.hypotheses[0].cause, ranked[0].cause
    sure = found.sure and top_was == top_is and ranked[0].verdict in ("cures", "not replayed")
    sure = sure or (ranked[0].cause in INTERACTIONS.values() and is_sure(ranked))
    return replace(
        found, hypotheses=tuple(ranked), sure=sure, remedies=remedies, looked_at=(*found.looked_at, "replays")
    )


def _verdicts(as_it_is: Replayed, tried: Sequence[tuple[Treatment, Replayed, bool]]) -> list[Verdict]:
    best = min([as_it_is.ne, *(went.ne for _, went, _ in tried)])

    def restored(went: Replayed) -> bool:
        return went.steady and went.ne <= best + RESTORED and went.ne < 1

    damaged = not restored(as_it_is)
    verdicts: list[Verdict] = []
    for _, went, left in tried:
        better = (went.finite and not as_it_is.finite) or went.ne < as_it_is.ne - RESTORED or (
            went.finite and went.largest < 0.1 * as_it_is.largest
        )  # fmt: skip
        if not left and (restored(went) or not damaged):
            verdicts.append("cures")
        elif better:
            verdicts.append("masks")
        else:
            verdicts.append("no effect")
    return verdicts


def _is_left(build: Callable[[Path], Trainer], folder: Path, treatment: Treatment, cause: str) -> bool:
    """Whether a survey of the treated training still finds the cause: what is there as before is at best hidden."""

    def treated(output: Path) -> Trainer:
        trainer = build(output)
        treatment.change(trainer)
        return trainer

    # A remedy may be a setting that is not the declared one: nothing is made of that.
    found = rank(survey(treated, folder).clues)
    return any(h.cause == cause and h.score > 0.5 for h in found.hypotheses)


def _shift_of(hypothesis: Hypothesis) -> int | None:
    """By how many rows labels must move, from the evidence of a shift."""
    numbers = [int(m[1]) for text in hypothesis.evidence if (m := re.search(r"shifted by (-?\d+) rows", text))]
    return numbers[0] if numbers else None
