"""What was declared before an experiment began, and is held to while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Self

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.design import Design
from ctr_pipeline.experiments.sample_size import Rule


class Unit(StrEnum):
    """Over what outcomes are counted."""

    IMPRESSION = "impression"
    SESSION = "session"
    USER = "user"


class Looks(StrEnum):
    """When a decision may be taken."""

    ANY = "any"
    """At every look, by the confidence sequence."""
    ONE = "one"
    """Once, at the planned end, by the interval of a single look."""


@dataclass(frozen=True, slots=True)
class Term:
    """What an outcome adds to the metric: ``weight``, times the number in the column ``value`` where one is named."""

    task: str
    weight: float = 1.0
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The declaration of an experiment; ``ctr experiment read`` takes it as a file.

    Attributes:
        design: Who is in which arm.
        terms: The metric's numerator: a sum of terms over outcomes.
        unit: Its denominator.
        rule: The difference that must be found, and how surely.
        looks: When a decision may be taken.
        first: First day, UTC; None where it is not known yet.
        rate: Rate of the control that it was planned with; None where outcomes are counted over users, who do more in a longer test.
        users: Users of both arms at the planned end; None where that is never reached.
        before_days: Days before the first one whose outcomes are taken away from the variance (CUPED); 0 for none.
    """

    design: Design
    terms: tuple[Term, ...]
    unit: Unit
    rule: Rule
    looks: Looks
    first: date | None
    rate: float | None
    users: int | None
    before_days: int

    def planned_error(self, rate: float) -> float:
        """Standard error of the difference at the planned end.

        It is fixed before: were it taken from the control's rate, a control that is high by chance would end the test, with a
        difference that is low by the same chance.

        Args:
            rate: Of both arms together; used where :attr:`rate` is not known.
        """
        rule = self.rule
        quantiles = rule.sequential_quantiles if self.looks is Looks.ANY else rule.quantiles
        return abs(rule.relative) * (rate if self.rate is None else self.rate) / quantiles

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("relative", "alpha", "power", "sides", "treated", "share", "maturity_days")
        return {
            "design": self.design.to_json(),
            "terms": [{"task": one.task, "weight": one.weight, "value": one.value} for one in self.terms],
            "unit": self.unit.value,
            "rule": {name: getattr(self.rule, name) for name in names},
            "looks": self.looks.value,
            "first": self.first.isoformat() if self.first else None,
            "rate": self.rate,
            "users": self.users,
            "before_days": self.before_days,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The plan that :meth:`to_json` describes.

        Raises:
            EvaluationError: it is no plan.
        """
        try:
            return cls(
                design=Design.from_json(content["design"]),
                terms=tuple(Term(one["task"], one["weight"], one["value"]) for one in content["terms"]),
                unit=Unit(content["unit"]),
                rule=Rule(**content["rule"]),
                looks=Looks(content["looks"]),
                first=date.fromisoformat(content["first"]) if content["first"] else None,
                rate=None if content["rate"] is None else float(content["rate"]),
                users=None if content["users"] is None else int(content["users"]),
                before_days=int(content["before_days"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"it is no plan of an experiment ({type(error).__name__}: {error}): give the file that "
                "`ctr experiment plan --json` wrote"
            ) from None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an experiment is.

    Attributes:
        settled: Last day whose outcomes are settled; None where there is none.
        days: Days of it until then.
    """

    settled: date | None
    days: int
