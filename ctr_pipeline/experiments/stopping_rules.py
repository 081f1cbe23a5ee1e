"""When an experiment ends, and with which decision: rules that were fixed before it began."""

import math
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

from ctr_pipeline.evaluation.metrics import Interval
from ctr_pipeline.experiments.declared_plan import Looks, Plan, Progress
from ctr_pipeline.experiments.reading import UNEVEN, Reading
from ctr_pipeline.experiments.sample_size import LONGEST_DAYS


class Verdict(StrEnum):
    """What to do."""

    SHIP = "ship"
    STOP = "stop"
    GO_ON = "go on"


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, why, and until when where it goes on (None where the end cannot be told)."""

    verdict: Verdict
    reason: str
    until: date | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        until = self.until.isoformat() if self.until else None
        return {"verdict": self.verdict.value, "reason": self.reason, "until": until}


def advice(reading: Reading, plan: Plan, progress: Progress) -> Advice:
    """The decision of a reading, by rules in this order.

    1. The arms are not in the declared ratio: stop, nothing of the test can be believed.
    2. With a single look, it is not yet the planned end: go on.
    3. The interval lies on the wanted side of 0: ship. On the other: stop.
    4. The planned standard error is reached: stop, the difference that was planned for was not shown.
    5. The interval excludes the difference that was planned for: stop.
    6. Otherwise go on.

    The interval is the confidence sequence, which holds the truth at all looks together; with a single look that of a
    single look.

    Args:
        reading: Of the settled rows, at the level of ``plan.rule`` (twice of it for one side).
        plan: What was declared.
        progress: How far the experiment is.
    """
    rule, users = plan.rule, sum(reading.users)
    if reading.ratio_p_value < UNEVEN:
        shares = f"{rule.treated:.2%} declared, {reading.users[0] / users:.2%} found"
        return Advice(
            Verdict.STOP,
            f"users were not assigned as declared: share of the treatment {shares} (p = {reading.ratio_p_value:.2g}). Nothing of the "
            "test can be believed before the cause is found: lost or redirected requests, an arm that fails, filters after "
            "the assignment.",
        )
    until = _until(reading, plan, progress)
    is_over = reading.information >= 1
    if plan.looks is Looks.ONE and not is_over:
        return Advice(
            Verdict.GO_ON,
            f"{reading.information:.0%} of the planned information: with a single look the decision is taken at the planned end.",
            until,
        )
    found = reading.always if plan.looks is Looks.ANY else reading.difference
    sign = math.copysign(1.0, rule.relative)
    low, high = sorted((sign * found.low, sign * found.high))
    shown = _relative_text(found, reading.control)
    if low > 0:
        return Advice(Verdict.SHIP, f"the treatment is better: {shown}.")
    if high < 0:
        return Advice(Verdict.STOP, f"the treatment is worse: {shown}.")
    if is_over:
        return Advice(
            Verdict.STOP,
            f"the planned precision is reached, and no difference was shown: {shown}. A difference of "
            f"{rule.relative:+.1%} would have been found with a chance of {rule.power:.0%}.",
        )
    if high < abs(rule.relative) * reading.control:
        return Advice(
            Verdict.STOP, f"a difference of {rule.relative:+.1%}, which was planned for, is excluded: {shown}."
        )
    return Advice(Verdict.GO_ON, f"{reading.information:.0%} of the planned information, not decided: {shown}.", until)


def _until(reading: Reading, plan: Plan, progress: Progress) -> date | None:
    """When the planned precision is reached, if information goes on to grow as it did by the day.

    Where users come again it grows more slowly in time, so the end may be later.
    """
    if progress.settled is None or not progress.days or reading.information <= 0:
        return None
    missing = max(0.0, progress.days * (1.0 / reading.information - 1.0))
    if missing > LONGEST_DAYS:
        return None
    return progress.settled + timedelta(days=math.ceil(missing) + math.ceil(plan.rule.maturity_days))


def _relative_text(found: Interval, control: float) -> str:
    value, low, high = (number / control for number in (found.value, found.low, found.high))
    return f"{value:+.2%} of the control's rate [{low:+.2%}, {high:+.2%}]"
