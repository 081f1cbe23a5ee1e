"""How well faults are noticed, named and placed: one drill at a time."""

import gc
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctr_pipeline.gradients.drills import fault_named
from ctr_pipeline.gradients.drills.benign_variants import BENIGN
from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.gradients.triage.hypothesis import Triage
from ctr_pipeline.gradients.triage.verdict import NAME as TRIAGE
from ctr_pipeline.gradients.triage.verdict import triage_finding
from ctr_pipeline.training.drilling.default_rules import DefaultRules
from ctr_pipeline.training.drilling.drilled_run import Drill, PreparedDrill, prepare_drill
from ctr_pipeline.training.drilling.generic_alarms import Alarm, GenericAlarms
from ctr_pipeline.training.triaging import evidence_of, triage_of, with_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredDrill:
    """What was made of one drill.

    Attributes:
        fault: Name of the fault; of a healthy training that of its variant.
        family: Its family; ``healthy`` where nothing is wrong.
        half: ``development``, ``scored`` or ``healthy``.
        seed: Seed of rows, weights and fault.
        found_by: What noticed it, the triage at its end included; empty where nothing did.
        found_at: Steps before that.
        steps: Steps taken.
        stopped: Whether it ended with something red.
        validation: Normalised entropy of the best epoch; None where there is none.
        causes: Causes that triage names, the most likely one first.
        sure: Whether triage is sure of the first.
        score: Score of the first; 0 where none is named.
        rank: Place of the first right cause, from 1; None where none is.
        location: Where triage places its first cause.
        located: Whether that is right; None where the fault has no place, or the cause is not right.
        generic: Generic alarms of the same training without contracts, in their order; None where it was not run.
        rules: Default rules likewise.
        trouble: The error that triage raised; empty where it raised none.
    """

    fault: str
    family: str
    half: str
    seed: int
    found_by: str
    found_at: int | None
    steps: int
    stopped: bool
    validation: float | None
    causes: tuple[str, ...]
    sure: bool
    score: float
    rank: int | None
    location: str | None
    located: bool | None
    generic: tuple[Alarm, ...] | None
    rules: tuple[Alarm, ...] | None
    trouble: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTask:
    """A drill that is to be scored; plain values, so that another process can run it.

    Attributes:
        fault: Name of a registered fault, or of a benign variant.
        healthy: Whether it is the latter.
        seed: Seed of rows, weights and fault.
        baselines: Whether generic alarms and default rules watch the same training without contracts.
        replay: Whether triage tries remedies.
    """

    fault: str
    healthy: bool
    seed: int
    baselines: bool = True
    replay: bool = False


def score_drill(task: DrillTask) -> ScoredDrill:
    """Runs the drill, asks triage for its cause, and runs it once more for the baselines; the same each time."""
    fault = next(v for v in BENIGN if v.name == task.fault) if task.healthy else fault_named(task.fault)
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_drill(fault, task.seed, Path(folder))
        generic, rules = GenericAlarms(), DefaultRules()
        if task.healthy:
            # Contracts change nothing of a training that keeps them.
            drill = watched = prepared.run(observers=(generic, rules) if task.baselines else ())
        else:
            drill = watched = prepared.run()
        found, trouble = _triage(prepared, drill, task.replay)
        if task.baselines and not task.healthy:
            watched = prepared.run(contracts=False, observers=(generic, rules))
    if task.baselines:
        generic.finish(watched)
        rules.finish(watched)
    # Trainings refer to themselves, and each has some 60 files open: left to the collector, many drills run out of them.
    del prepared
    gc.collect()
    noticed = _noticed(drill, found, trouble)
    causes = tuple(dict.fromkeys(hypothesis.cause for hypothesis in found.hypotheses))
    rank = None if task.healthy else next((n for n, name in enumerate(causes, 1) if names(fault, name)), None)
    location = found.top.location if found.top is not None else None
    return ScoredDrill(
        fault=fault.name, family=fault.family, half="healthy" if task.healthy else fault.half, seed=task.seed,
        found_by=noticed.by, found_at=noticed.at, steps=drill.steps, stopped=noticed.red,
        validation=drill.validation, causes=causes, sure=found.sure, score=found.top.score if found.top else 0.0, rank=rank,
        location=location,
        located=places(fault.located, location) if fault.located and rank == 1 else None,
        generic=tuple(generic.alarms) if task.baselines else None, rules=tuple(rules.alarms) if task.baselines else None,
        trouble=trouble,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Noticed:
    """What noticed a fault, after how many steps, and whether that is red."""

    by: str
    at: int | None
    red: bool


def _noticed(drill: Drill, found: Triage, trouble: str) -> _Noticed:
    """As a training that goes to its end asks triage itself: what triage finds is a finding of it."""
    own = _Noticed(drill.found_by, drill.found_at, drill.stopped)
    severity = triage_finding(None if trouble else found, trouble).finding.severity
    if own.red or severity == "ok":
        return own
    if severity == "error":
        return _Noticed(TRIAGE, drill.steps, True)
    return own if own.by else _Noticed(f"{TRIAGE} (warning)", drill.steps, False)


def names(fault: Fault, cause: str) -> bool:
    """Whether ``cause`` is a right name for ``fault``."""
    return cause in fault.right_names


def places(right: Sequence[str], location: str | None) -> bool:
    """Whether ``location`` is one of the ``right`` places; one that ends with a dot stands for all that begin with it.

    An interaction of two causes has two places, joined by ``×``.
    """
    found = [] if location is None else [part.strip() for part in location.split("×")]
    return any(part == place or (place.endswith(".") and part.startswith(place)) for part in found for place in right)


def _triage(prepared: PreparedDrill, drill: Drill, replay: bool) -> tuple[Triage, str]:
    settings = prepared.job.training.model_dump()
    evidence = with_settings(evidence_of(prepared.job.output, drill.cause, drill.health), settings)
    try:
        return triage_of(evidence, prepared.build, replay=replay), ""
    except Exception as error:
        # A triage that breaks on a broken training is a result too: it names nothing.
        return Triage(), f"{type(error).__name__}: {error}"
