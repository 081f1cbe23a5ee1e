"""By which keys of the log, and on which parts of it, a model is measured."""

from collections.abc import Collection

from pydantic import Field, field_validator

from ctr_pipeline.spec.fields import Column, Name, Section, added_field

STANDARD, STANDARD_BEGINNINGS = ("position", "traffic"), ("missing ", "training rows of ")
"""Names of slices that are measured of every model, and how others of them begin."""


class EvaluationSlice(Section):
    """A part of the rows that is measured by itself: the intervals of a number, or the values of a category."""

    feature: Name = Field(description="Feature that the rows are divided by.")
    edges: list[float] = Field(
        default=[], description="Where the intervals of a number begin, ascending; none for a category."
    )
    name: str | None = Field(
        default=None, min_length=1, description="What the slice is called; by default the feature."
    )

    @field_validator("edges")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if value != sorted(set(value)):
            raise ValueError(f"the edges of intervals rise; found {value}")
        return value

    @property
    def title(self) -> str:
        """What the slice is called."""
        return self.name or self.feature


class EvaluationCost(Section):
    """What an action on an impression costs, and what an outcome is worth then."""

    task: Name = Field(description="Task whose outcome it is.")
    cost: float = Field(ge=0, allow_inf_nan=False, description="Cost of an action, in any unit.")
    value: float = Field(gt=0, allow_inf_nan=False, description="Value of an outcome, in the unit of the cost.")


class Evaluation(Section):
    """Keys of the metrics: ``user``, ``session``, or a column of the log, which is stored as a keyed hash only."""

    group_by: Column | None = Field(
        default=None,
        description="Key within which impressions are ranked, such as a request: adds the AUC within its groups.",
    )
    cluster_by: Column | None = Field(
        default=None,
        description="Key whose rows are not independent, for all intervals; the user, or else the session, when absent.",
    )
    origins: int = added_field(
        1,
        "Retrains of the same model whose test days count in the gate of days: this one and those before it, each beside the "
        "champion of its time.",
        ge=1,
    )
    slices: list[EvaluationSlice] = added_field([], "Parts of the test rows that are measured by themselves.")
    costs: list[EvaluationCost] = added_field(
        [],
        "By task the cost of an action and the value of an outcome: from which probability on to act, and what that gains.",
    )

    def refuse_wrong_costs(self, tasks: Collection[str]) -> None:
        """Refuses costs of what is no task, and two of one.

        Raises:
            ValueError: names the cost and what there is.
        """
        named = [of.task for of in self.costs]
        for at, task in enumerate(named):
            if task not in tasks:
                raise ValueError(f"`evaluation.costs[{at}]` names {task!r}, which is no task; use {', '.join(tasks)}")
            if task in named[:at]:
                raise ValueError(f"`evaluation.costs[{at}]`: {task!r} has costs already; leave one of them")

    def refuse_wrong_slices(self, numbers: Collection[str], categories: Collection[str]) -> None:
        """Refuses slices of what is no input of the model, and intervals of what has none.

        Args:
            numbers: Names of the numbers.
            categories: Names of the categories of one value that are not stored as keyed hashes.

        Raises:
            ValueError: names the slice and what there is.
        """
        for at, cut in enumerate(self.slices):
            where = f"`evaluation.slices[{at}]`"
            if cut.feature not in {*numbers, *categories}:
                known = ", ".join(sorted({*numbers, *categories}))
                raise ValueError(
                    f"{where} names {cut.feature!r}, which is no feature of one value with values in the clear; use one of {known}"
                )
            if cut.feature in numbers and not cut.edges:
                raise ValueError(f"{where}: {cut.feature!r} is a number: name the `edges` of its intervals")
            if cut.feature in categories and cut.edges:
                raise ValueError(f"{where}: {cut.feature!r} is a category, which has no `edges`: remove them")
        titles = [cut.title for cut in self.slices]
        if taken := [title for title in titles if title in STANDARD or title.startswith(STANDARD_BEGINNINGS)]:
            raise ValueError(f"`evaluation.slices`: {taken[0]!r} is measured anyway; give yours another `name`")
        if len(set(titles)) < len(titles):
            raise ValueError(f"`evaluation.slices`: each needs a `name` of its own; found {', '.join(titles)}")
