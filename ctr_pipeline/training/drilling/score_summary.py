"""The score of many drills, with intervals; plain numbers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import beta

from ctr_pipeline.training.drilling.default_rules import RIGHT_FOR
from ctr_pipeline.training.drilling.generic_alarms import Alarm
from ctr_pipeline.training.drilling.scored_drill import ScoredDrill

CONFIDENCE = 0.95
PER_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Share:
    """How many of a number, with the exact interval of the share (Clopper and Pearson, Biometrika 26, 1934).

    Attributes:
        count: How many.
        of: Of how many; 0 leaves the interval at 0 to 1.
    """

    count: int
    of: int

    @property
    def value(self) -> float | None:
        """The share; None of none."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound with a confidence of 95 %."""
        return clopper_pearson(self.count, self.of)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"count": self.count, "of": self.of, "share": self.value, "interval": list(self.interval)}


def clopper_pearson(count: int, of: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact two-sided interval of a share."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, of - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0
    return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfScore:
    """The score of one half.

    Attributes:
        half: Its name.
        faults: Number of faults.
        families: Number of families.
        top1: Runs whose first cause is right.
        top3: Runs with a right cause among the first three.
        located: Of the runs that are named right and have a place, those that are placed right.
        abstained: Runs for which triage names nothing.
        wrong_while_sure: Of the runs for which triage is sure, those whose first cause is wrong.
        silent: Runs that end with nothing red: the model would be promoted.
        green: Of these, those that end without a warning too.
        steps_median: Median of the steps before something red, of the runs that have it.
        steps_p90: Their 90th percentile.
        generic: Runs with a generic alarm.
        rules: Runs in which a default rule fires.
        rules_beyond_healthy: Runs in which one fires that fires in no healthy training.
        rules_named: Runs in which the first rule that fires beyond healthy ones may pass for a cause.
        silent_faults: Faults with silent runs, and how many.
        green_faults: Faults with runs that end with every check green, and how many.
        misnamed: By fault, causes that were named first and are wrong, and how often; ``unknown`` for none.
        troubles: By fault, errors that triage raised.
    """

    half: str
    faults: int
    families: int
    top1: Share
    top3: Share
    located: Share
    abstained: Share
    wrong_while_sure: Share
    silent: Share
    green: Share
    steps_median: float | None
    steps_p90: float | None
    generic: Share
    rules: Share
    rules_beyond_healthy: Share
    rules_named: Share
    silent_faults: Mapping[str, int]
    green_faults: Mapping[str, int]
    misnamed: Mapping[str, Mapping[str, int]]
    troubles: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value.to_dict() if isinstance(value, Share) else value for name, value in found.items()}


def half_score(half: str, drills: Sequence[ScoredDrill], healthy: Sequence[ScoredDrill]) -> HalfScore:
    """The score of the drills of ``half``; ``healthy`` trainings say which rules mean nothing."""
    runs = [drill for drill in drills if drill.half == half]
    always = {alarm.name for drill in healthy for alarm in drill.rules or ()}
    watched = [drill for drill in runs if drill.rules is not None]
    beyond = [[alarm for alarm in drill.rules or () if alarm.name not in always] for drill in watched]
    steps = [drill.found_at for drill in runs if drill.stopped and drill.found_at is not None]
    sure = [drill for drill in runs if drill.sure]
    named = [
        any(drill.fault in RIGHT_FOR.get(alarm.name, ()) for alarm in found[:1])
        for drill, found in zip(watched, beyond, strict=True)
    ]
    misnamed: dict[str, Counter[str]] = defaultdict(Counter)
    for drill in runs:
        if drill.rank != 1:
            misnamed[drill.fault][drill.causes[0] if drill.causes else "unknown"] += 1
    return HalfScore(
        half=half,
        faults=len({drill.fault for drill in runs}),
        families=len({drill.family for drill in runs}),
        top1=_share(drill.rank == 1 for drill in runs),
        top3=_share(drill.rank is not None and drill.rank <= 3 for drill in runs),
        located=_share(drill.located for drill in runs if drill.located is not None),
        abstained=_share(not drill.causes for drill in runs),
        wrong_while_sure=_share(drill.rank != 1 for drill in sure),
        silent=_share(not drill.stopped for drill in runs),
        green=_share(not drill.found_by for drill in runs),
        steps_median=float(median(steps)) if steps else None,
        steps_p90=float(np.quantile(steps, 0.9)) if steps else None,
        generic=_share(bool(drill.generic) for drill in watched),
        rules=_share(bool(drill.rules) for drill in watched),
        rules_beyond_healthy=_share(bool(found) for found in beyond),
        rules_named=_share(named),
        silent_faults=dict(sorted(Counter(drill.fault for drill in runs if not drill.stopped).items())),
        green_faults=dict(sorted(Counter(drill.fault for drill in runs if not drill.found_by).items())),
        misnamed={fault: dict(found.most_common()) for fault, found in sorted(misnamed.items())},
        troubles={drill.fault: drill.trouble for drill in runs if drill.trouble},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthyScore:
    """False alarms of healthy trainings, by who raises them.

    Attributes:
        runs: Number of trainings.
        steps: Steps of all of them.
        hard: Trainings that ended with something red, of all steps: one ends at its first.
        warnings: Warnings of contracts, of all steps.
        named: Trainings for which triage names a cause.
        sure: Trainings for which it is sure of one.
        generic: Steps with a generic alarm.
        rules: Rules that fired in a training, of all steps.
        refused: By variant, what ended it, and how often.
    """

    runs: int
    steps: int
    hard: Share
    warnings: Share
    named: Share
    sure: Share
    generic: Share
    rules: Share
    refused: Mapping[str, Mapping[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with alarms per 10,000 steps."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {name: value.to_dict() if isinstance(value, Share) else value for name, value in found.items()}
        for name in ("hard", "warnings", "generic", "rules"):
            plain[name]["per_10000_steps"] = per_steps(found[name])
        return plain


def per_steps(share: Share) -> tuple[float, float, float]:
    """Alarms per 10,000 steps, with their interval."""
    return (share.value or 0.0) * PER_STEPS, share.interval[0] * PER_STEPS, share.interval[1] * PER_STEPS


def healthy_score(healthy: Sequence[ScoredDrill]) -> HealthyScore:
    """The false alarms of healthy trainings."""
    steps = sum(drill.steps for drill in healthy)
    watched = sum(drill.steps for drill in healthy if drill.generic is not None)
    refused: dict[str, Counter[str]] = defaultdict(Counter)
    for drill in healthy:
        if drill.stopped:
            refused[drill.fault][drill.found_by] += 1

    def at_steps(alarms: Iterable[Sequence[Alarm] | None]) -> int:
        return sum(len({alarm.step for alarm in found or ()}) for found in alarms)

    return HealthyScore(
        runs=len(healthy),
        steps=steps,
        hard=Share(sum(drill.stopped for drill in healthy), steps),
        warnings=Share(sum(drill.found_by.endswith("(warning)") for drill in healthy), steps),
        named=_share(bool(drill.causes) for drill in healthy),
        sure=_share(drill.sure for drill in healthy),
        generic=Share(at_steps(drill.generic for drill in healthy), watched),
        rules=Share(sum(len(drill.rules or ()) for drill in healthy), watched),
        refused={variant: dict(found) for variant, found in refused.items()},
    )


def _share(holds: Iterable[bool | None]) -> Share:
    values = [bool(value) for value in holds]
    return Share(sum(values), len(values))
