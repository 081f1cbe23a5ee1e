"""Limits of the soft detectors from healthy runs of the same job, with a stated budget of false alarms."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import beta

from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.gradients import Finding, registered_detectors
from ctr_pipeline.gradients.triage.left_behind import read_json_lines
from ctr_pipeline.training.dataloader import Shard
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.job_spec import HealthLimits, TrainingError, TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.plan import known_outcomes, plan_training
from ctr_pipeline.training.run_files import RunFiles
from ctr_pipeline.training.stopping import Stopped

CONFIDENCE = 0.95
FEWEST_RUNS = 20

SMALLEST = 0.1
"""Limits stay above this share of the rule of thumb: what never happened in healthy runs may happen once. A detector whose
limit healthy runs cannot lower so far has a share of its own, ``smallest_share``.
"""

PER_STEPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthyRun:
    """What a healthy run came to.

    Attributes:
        seed: Its seed.
        steps: Steps taken.
        strengths: Of each soft detector the largest measurement, relative to its rule of thumb; of those that compare a run
            with another one, that of the run after the one before it. None of a detector that measured nothing.
    """

    seed: int
    steps: int
    strengths: Mapping[str, float]


def run_healthy(job: TrainingJob, seed: int, folder: Path, epochs: int | None) -> HealthyRun:
    """Trains the job with another seed, in ``folder``, against the rules of thumb.

    Args:
        job: The job.
        seed: Seed of weights, order and dropout.
        folder: Receives what the run writes.
        epochs: Epochs that are learnt, of those of the plan; all when None.

    Raises:
        TrainingError: the run was stopped: it is not healthy.
    """
    plain = {"output": folder, "seed": seed, "mlflow": None, "device": "cpu", "health_limits": None}
    own = job.model_copy(update={**plain, "last_good_steps": None, "checkpoint_every": 10**9})
    dataset = PackedDataset.open(job.dataset).of_tasks(job.tasks)
    train = dataset.splits["train"]
    plan = plan_training(own.training, own.model, len(train), known_outcomes(train.labels))
    group = ProcessGroup(Shard(), torch.device("cpu"))
    trainer = Trainer(own, dataset, plan, group, lambda: 0.0, lambda: False, stop_after=epochs)
    try:
        done = trainer.run(resume=False)
    except Stopped as stopped:
        raise TrainingError(
            f"a run with seed {seed} was stopped at step {stopped.cause.step}, so the limits of healthy runs cannot be taken "
            f"from this job: {stopped.cause.message}"
        ) from stopped
    soft = {detector.name for detector in registered_detectors() if hasattr(detector, "calibrate")}
    strengths = {
        found.name: found.finding.strength
        for found in done.health.findings
        if found.name in soft and found.finding.value is not None
    }
    return HealthyRun(seed=seed, steps=done.steps, strengths=strengths)


def highest_rate(alarms: int, steps: int) -> float:
    """Upper bound of the alarms by 10,000 steps, with a confidence of 95 % (Clopper and Pearson, Biometrika 26, 1934)."""
    return PER_STEPS * float(beta.ppf(CONFIDENCE, alarms + 1, steps - alarms)) if alarms < steps else float(PER_STEPS)


def limits_of(runs: Sequence[HealthyRun], budget: float | None) -> HealthLimits:
    """The limits that keep the budget.

    A detector has one finding a run, so a run raises one alarm at most: as many runs may exceed the limit as the budget
    allows for all their steps, and the limit is the largest measurement of the others.

    Args:
        runs: Healthy runs.
        budget: Most false alarms of each detector by 10,000 steps, with a confidence of 95 %; the smallest that the runs can
            show when None.

    Raises:
        TrainingError: there are too few runs, or too few steps to show the budget.
    """
    if len(runs) < FEWEST_RUNS:
        raise TrainingError(f"{len(runs)} healthy runs are too few for limits: take at least {FEWEST_RUNS}")
    steps = sum(run.steps for run in runs)
    budget = highest_rate(0, steps) if budget is None else budget
    if highest_rate(0, steps) > budget:
        needed = math.ceil(-math.log(1 - CONFIDENCE) * PER_STEPS / budget)
        raise TrainingError(
            f"{len(runs)} runs took {steps:,} steps, which can show no fewer than {highest_rate(0, steps):.3g} false alarms by "
            f"10,000 steps; for {budget:g} take {needed:,} steps: more runs or epochs, or a larger budget"
        )
    allowed = max(count for count in range(len(runs)) if highest_rate(count, steps) <= budget)
    limits = {}
    for detector in registered_detectors():
        rule = getattr(detector, "rule", None)
        found = sorted((run.strengths[detector.name] for run in runs if detector.name in run.strengths), reverse=True)
        if rule is not None and len(found) == len(runs) and math.isfinite(found[allowed]):
            limits[detector.name] = rule * max(found[allowed], getattr(detector, "smallest_share", SMALLEST))
    return HealthLimits(runs=len(runs), steps=steps, false_alarms=budget, limits=limits)


def calibrate_health(
    job: TrainingJob,
    folder: Path,
    *,
    runs: int = FEWEST_RUNS,
    epochs: int | None = None,
    budget: float | None = None,
    progress: Callable[[HealthyRun], None] = lambda _: None,
) -> HealthLimits:
    """Runs the job ``runs`` times with other seeds and takes the limits; the same job gives the same limits.

    Args:
        job: The job; its dataset is read.
        folder: Empty folder for the runs, one at a time.
        runs: How many.
        epochs: Epochs of each; all of the job's plan when None.
        budget: As in :func:`limits_of`.
        progress: Receives each run.

    Raises:
        TrainingError: a run was stopped, or there are too few runs or steps.
    """
    if runs < FEWEST_RUNS:
        raise TrainingError(f"{runs} healthy runs are too few for limits: take at least {FEWEST_RUNS}")
    found: list[HealthyRun] = []
    first: list[dict[str, Any]] = []
    before: list[dict[str, Any]] = []
    for number in range(1, runs + 1):
        own = folder / str(number)
        run = run_healthy(job, (job.seed + 7919 * number) % 2**31, own, epochs)
        lines = read_json_lines(RunFiles.of(own).steps)
        shutil.rmtree(own, ignore_errors=True)
        found.append(compared(run, lines, before))
        first, before = first or lines, lines
        progress(found[-1])
    # The first one has none before it, so that it follows the last: each is compared once.
    found[0] = compared(found[0], first, before if runs > 1 else [])
    return limits_of(found, budget)


def compared(run: HealthyRun, own: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> HealthyRun:
    """``run`` with the measurements of the detectors that compare runs.

    Args:
        run: The run.
        own: Lines of its steps.jsonl.
        before: Those of the run that it is compared with.
    """
    found: dict[str, Finding] = {}
    for detector in registered_detectors():
        if (between := getattr(detector, "between", None)) is not None:
            found[detector.name] = between(own, before)
    known = {name: finding.strength for name, finding in found.items() if finding.value is not None}
    return replace(run, strengths={**run.strengths, **known})
