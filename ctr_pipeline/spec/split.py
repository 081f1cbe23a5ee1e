"""How the impressions are divided into training, validation, calibration and test."""

from datetime import date
from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import DAY_US, Column, Duration, Section, added_field, format_duration


class Slice(Section):
    """An interval of time: whole days, or a share of the mature impressions; or such a share drawn at random."""

    days: int | None = Field(default=None, gt=0, description="Length in days.")
    fraction: float | None = Field(default=None, gt=0, lt=1, description="Share of the mature impressions of the run.")
    first: date | None = added_field(None, "First day, UTC; the interval ends where the next one, or the gap, begins.")
    last: date | None = added_field(
        None, "Last day, UTC, of a test with a `first` day; the latest mature one when absent."
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        lengths = {"days": self.days, "fraction": self.fraction, "first": self.first}
        found = [name for name, value in lengths.items() if value is not None]
        if len(found) != 1:
            raise ValueError(
                f"declare exactly one of `days`, `fraction` and `first`; found {' and '.join(found) or 'none'}"
            )
        if self.last is not None and (self.first is None or self.last < self.first):
            raise ValueError(f"`last` {self.last} belongs to a `first` day that is not after it; found {self.first}")
        return self


class Split(Section):
    """A simulated deployment, in time order: train, validation, calibration, maturity gap, test.

    The test is the latest interval in which all tasks are mature. The other parts are those of each task: they end
    where its labels are settled at the first instant of the test, as of which everything before it is labelled.
    With ``by`` there is no order: mature impressions are drawn at random, all labelled as of the end of the run.
    """

    test: Slice = Field(default=Slice(days=7), description="The latest mature interval.")
    calibration: Slice = Field(
        default=Slice(days=2), description="Interval before the gap on which calibrators are fitted."
    )
    validation: Slice = Field(
        default=Slice(days=1), description="Interval before calibration on which the best epoch is chosen."
    )
    train_days: int | None = Field(
        default=None, gt=0, description="Longest training interval in days; all of the log when absent."
    )
    ingest_lag: Duration = Field(
        default=0, description="Extra time after a window closes before its label counts as settled."
    )

    maturity: Literal["by_task", "longest"] = added_field(
        "by_task",
        "When the rows before the test count: `by_task`, for each task as soon as its own label is settled; `longest`, for "
        "all tasks once that of the slowest is.",
    )
    by: Column | None = added_field(
        None,
        "Draws the parts at random: `row`, `user`, `session`, or a column of the log whose equal values stay together.",
    )

    @property
    def remark(self) -> str | None:
        """What a person should know of figures that were measured on such a split; None for one in time order."""
        if self.by is None:
            return None
        apart = "a user or a request has rows in several of them, and the model" if self.by == "row" else "the model"
        return (
            f"The parts are drawn at random by {self.by} (`split.by`), all of the same days: {apart} has seen the time of the test, "
            "so its figures are better than those of a model that goes live after its training. A split in time order tells these."
        )

    def require_gap(self, maturity: int) -> None:
        """Raises ValueError where the named days leave no calibration before the gap of ``maturity`` microseconds."""
        test, calibration, days = self.test.first, self.calibration.first, -(-maturity // DAY_US)
        if test is not None and calibration is not None and (test - calibration).days <= days:
            raise ValueError(
                f"`split.calibration` begins on {calibration} and `split.test` on {test}: labels take "
                f"{format_duration(maturity)} to settle before the test begins, so more than {days} days lie between the two; "
                "move one of them"
            )

    @model_validator(mode="after")
    def _dates_in_order(self) -> Self:
        for name, part in (("validation", self.validation), ("calibration", self.calibration)):
            if part.last is not None:
                raise ValueError(f"`{name}` has a `last` day: only `test` has, {name} ends where the next part begins")
        dated = [
            (name, part.first)
            for name, part in (
                ("validation", self.validation),
                ("calibration", self.calibration),
                ("test", self.test),
            )
            if part.first is not None
        ]
        for (name, first), (later, next_first) in pairwise(dated):
            if first >= next_first:
                raise ValueError(
                    f"`{later}` begins on {next_first}, and `{name}` before it on {first}: the order is train, validation, "
                    "calibration, test"
                )
        return self

    @model_validator(mode="after")
    def _shares_at_random(self) -> Self:
        if self.by is None:
            return self
        parts = {"test": self.test, "calibration": self.calibration, "validation": self.validation}
        without = [name for name, part in parts.items() if part.fraction is None]
        if without:
            raise ValueError(
                f"`by` draws parts at random, so each of them is a share: set `fraction` in {', '.join(without)}"
            )
        if self.train_days is not None:
            raise ValueError("`train_days` limits a training interval, and `by` draws at random: remove one of them")
        return self

    @model_validator(mode="after")
    def _training_rows_left(self) -> Self:
        share = sum(part.fraction or 0.0 for part in (self.test, self.calibration, self.validation))
        if share >= 1:
            raise ValueError(f"the fractions add up to {share:g}: leave some of the impressions for training")
        return self
