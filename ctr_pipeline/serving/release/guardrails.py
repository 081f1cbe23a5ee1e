"""When a canary ends by itself: the challenger fails, is slow, or its probabilities are not what happens."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from typing import Any, Self

from ctr_pipeline.serving.release.arms import Arm
from ctr_pipeline.serving.release.sequential_tests import (
    Outcomes,
    excess_evidence,
    odds_evidence,
    rate_evidence,
    relative_excess_evidence,
    shortfall_evidence,
)

KINDS = 4
"""Failures, latency, outcomes, and outcomes before they are mature: each has a quarter of the false alarms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailRules:
    """What a challenger may do, as it was declared when its trial began.

    Attributes:
        false_alarms: Chance that a challenger within all limits is rolled back, over the whole trial.
        failures: Share of the requests that it may fail to score where the champion does not.
        slow_ms: Time of scoring above which a request is slow; None for no limit.
        slow_odds: How many times the odds of a slow request may be those of the champion.
        low: Least observed over expected.
        high: Most observed over expected.
        margin: By how much more than the champion's its observed over expected may be off, as a ratio of both.
        early_ratio: The same before the outcomes are mature, as the ratio itself; None where they are not looked at.
    """

    false_alarms: float = 0.01
    failures: float = 0.001
    slow_ms: float | None = 8.0
    slow_odds: float = 2.0
    low: float = 0.9
    high: float = 1.1
    margin: float = 0.05
    early_ratio: float | None = 1.3

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The rules that :meth:`to_json` describes."""
        return cls(**content)


class CanaryGuard:
    """Watches failures and latency of the arms in one process of one service.

    Args:
        rules: The limits.
        processes: Processes of the service: each decides by itself, with its part of the false alarms.
    """

    def __init__(self, rules: GuardrailRules, processes: int) -> None:
        self._rules = rules
        self._needed = log(KINDS * processes / rules.false_alarms)
        self._answers = self._failures = 0
        self._awaiting: bool | None = None
        """Whether the challenger's request that the champion's next is paired with was slow; None for none."""
        self._slower = self._faster = 0
        self.reason: str | None = None
        """Why the canary must end, from the first observation that says so."""

    def scored(self, arm: Arm, seconds: float) -> None:
        """Takes note of a scored request and of the time that it took."""
        if arm is Arm.CHALLENGER:
            self._answers += 1
        if self._rules.slow_ms is None:
            return
        slow = seconds * 1000 > self._rules.slow_ms
        if arm is Arm.CHALLENGER and self._awaiting is None:
            self._awaiting = slow
        elif arm is Arm.CHAMPION and self._awaiting is not None:
            self._slower += self._awaiting and not slow
            self._faster += slow and not self._awaiting
            awaited, self._awaiting = self._awaiting, None
            if awaited and self.reason is None:
                self._decide_latency()

    def failed(self) -> None:
        """Takes note of a request that the challenger failed to score, and the champion did not."""
        self._failures += 1
        trials = self._answers + self._failures
        if self.reason is None and rate_evidence(self._failures, trials, self._rules.failures) > self._needed:
            self.reason = (
                f"it failed to score {self._failures:,} of {trials:,} requests that the champion could score; at most "
                f"{self._rules.failures:.2%} are allowed"
            )

    def _decide_latency(self) -> None:
        if odds_evidence(self._slower, self._faster, self._rules.slow_odds) > self._needed:
            self.reason = (
                f"scoring took more than {self._rules.slow_ms:g} ms in {self._slower:,} requests where the champion's next took "
                f"less, and the reverse in {self._faster:,}; at most {self._rules.slow_odds:g} times as many are allowed"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcomes:
    """Matured outcomes of a task by batch, in order of time: the challenger's and the champion's."""

    task: str
    batches: Sequence[tuple[Outcomes, Outcomes]]

    @property
    def challenger(self) -> Outcomes:
        """Of all batches."""
        return _sum([challenger for challenger, _ in self.batches])

    @property
    def champion(self) -> Outcomes:
        """Of all batches."""
        return _sum([champion for _, champion in self.batches])


def outcome_reasons(tasks: Sequence[TaskOutcomes], rules: GuardrailRules) -> list[str]:
    """Why a canary must end by what its impressions led to; a sentence a task, empty where it may go on.

    A challenger is refused where its observed over expected surely lies outside the limits, and surely further off than
    the champion's in that direction: what a season does to both is no reason.
    """
    needed = log(KINDS * 2 * max(1, len(tasks)) / rules.false_alarms)
    factor, reasons = 1 + rules.margin, []
    for found in tasks:
        own, other, batches = found.challenger, found.champion, list(found.batches)
        turned = [(champion, challenger) for challenger, champion in batches]
        above = excess_evidence(own, rules.high) > needed and relative_excess_evidence(batches, factor) > needed
        below = shortfall_evidence(own, rules.low) > needed and relative_excess_evidence(turned, factor) > needed
        if above or below:
            reasons.append(
                f"{found.task}: {own.observed:,} outcomes where {own.expected:,.1f} were predicted (observed/expected "
                f"{own.ratio:.3f}, allowed {rules.low:g} to {rules.high:g}; the champion's is {other.ratio:.3f})"
            )
    return reasons


def early_reasons(tasks: Sequence[TaskOutcomes], rules: GuardrailRules) -> list[str]:
    """Why a canary must end by the outcomes that have come so far, of impressions whose windows are still open.

    More outcomes may come, or some may be lost on their way, but to both arms alike where a batch is of impressions of
    the same age. So what is missing takes no part in the ratio of the arms, and silence says nothing. Whether it is the
    champion that predicts too little cannot be told before the windows are over; hence the wide ``early_ratio``.

    Args:
        tasks: Outcomes by batch of scoring time.
        rules: The limits.

    Returns:
        As :func:`outcome_reasons`.
    """
    if rules.early_ratio is None:
        return []
    found = outcome_reasons(tasks, replace(rules, margin=rules.early_ratio - 1))
    return [f"of what was reported soon, {reason}" for reason in found]


def _sum(parts: Sequence[Outcomes]) -> Outcomes:
    return Outcomes(observed=sum(part.observed for part in parts), expected=sum(part.expected for part in parts))
