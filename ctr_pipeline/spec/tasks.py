"""The outcomes to predict, as a funnel, and where their labels come from."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import Column, Duration, Name, Section, added_field
from ctr_pipeline.spec.losses import DelayedFeedback
from ctr_pipeline.spec.objectives import AnyObjective, Binary


class Label(Section):
    """Where a task's outcome is found: an event, a 0/1 column, or a column with the time of the outcome."""

    event: str | None = Field(
        default=None, description="Value of the event log's type column that means the outcome happened."
    )
    column: Column | None = Field(
        default=None, description="0/1 column of the impression row; a missing value means not known."
    )
    time_column: Column | None = Field(
        default=None,
        description="Column of the impression row with the time of the outcome; missing while it has not happened.",
    )
    log: Name | None = added_field(
        None, "With `column`: the log in `source.labels` whose column that is, instead of the impression log."
    )
    closed_by: list[Column] = Field(
        default=[],
        description="With `time_column`: columns with the time at which the case was closed without the outcome. A case that has neither is undecided, never a negative.",
    )

    positive: list[str | int | bool] = added_field(
        [], "With `column`: its values that mean that the outcome happened, where it is no 0/1 column."
    )
    negative: list[str | int | bool] = added_field(
        [], "With `positive`: the values that mean that it did not happen; by default, all other values."
    )
    counts: Literal["positive"] | None = added_field(
        None, "With `column`: how numbers above 1 are read. `positive`: any number above 0 is a positive."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = {"event": self.event, "column": self.column, "time_column": self.time_column}
        found = [name for name, value in kinds.items() if value is not None]
        if len(found) != 1:
            raise ValueError(
                f"declare exactly one of `event`, `column` and `time_column`; found {' and '.join(found) or 'none'}"
            )
        if self.closed_by and self.time_column is None:
            raise ValueError(f"`closed_by` {self.closed_by} goes with `time_column`, and the label has `{found[0]}`")
        self._check_values()
        return self

    def _check_values(self) -> None:
        """How the values of `column` are read."""
        for name in ("positive", "negative", "counts", "log"):
            if getattr(self, name) and self.column is None:
                how = "in which log `column` is" if name == "log" else "how the values of `column` are read"
                raise ValueError(f"`{name}` says {how}: it needs that")
        if self.negative and not self.positive:
            raise ValueError(f"`negative` {self.negative} goes with `positive`: name the values that mean yes too")
        if self.counts and self.positive:
            raise ValueError("declare one of `counts` and `positive`; found both")
        both = [value for value in self.negative if value in self.positive]
        if both:
            raise ValueError(f"values {both} are both `positive` and `negative`: each value means one of them")

    @property
    def impression_column(self) -> str | None:
        """``column``, where it is one of the impression log."""
        return self.column if self.log is None else None

    @property
    def needs_closing(self) -> bool:
        """Whether silence says nothing: a case without the outcome is closed by a row of its own."""
        return bool(self.closed_by) or self.log is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the impression log with how the case ended."""
        return (
            *(column for column in (self.impression_column, self.time_column) if column is not None),
            *self.closed_by,
        )


LATER_STEP_WEIGHT = 0.1
"""Loss weight of a task with a parent, where the spec gives none."""


class Task(Section):
    """One outcome to predict on the entire space of impressions."""

    name: Name = Field(description="Name of the task.")
    parent: Name | None = Field(
        default=None, description="Task that must have happened first; none for the first step."
    )
    window: Duration = Field(
        description="Time within which the outcome must happen, such as 24h or 14d; 0s for a column label that is final when logged."
    )
    window_from: Name = Field(
        default="impression",
        description="Where the window starts: `impression`, or a task earlier in the funnel (then that task's outcome).",
    )
    label: Label = Field(description="Where the outcome is found.")
    loss_weight: float | None = Field(
        default=None,
        gt=0,
        description="Weight of the task in the training loss; when absent 1, and 0.1 for a task with a `parent`.",
    )
    objective: AnyObjective = added_field(Binary(), "What is predicted, and the loss that training minimises for it.")

    @model_validator(mode="after")
    def _silence_means_not_yet(self) -> Self:
        if self.learns_from_open_labels and self.label.needs_closing:
            raise ValueError(
                "a loss that learns from open labels takes silence for `not yet`, and the cases of this task are undecided "
                "until they are closed: choose another `objective.loss`, such as binary_cross_entropy"
            )
        return self

    @property
    def weight_in_loss(self) -> float:
        """:attr:`loss_weight`, or its default: the loss of a later step of a funnel is of P(parent) too, of which the
        parent's own loss knows more. At equal weights each step pulls at the same click with fewer and older outcomes.
        """
        return self.loss_weight or (1.0 if self.parent is None else LATER_STEP_WEIGHT)

    @property
    def learns_from_open_labels(self) -> bool:
        """Whether training reads labels of this task that are not settled yet."""
        return isinstance(self.objective, Binary) and isinstance(self.objective.loss, DelayedFeedback)


def maturity(tasks: list[Task], name: str) -> int:
    """Microseconds after the impression at which ``name`` is settled.

    That is its window plus those of the tasks that it starts from.
    """
    task = next(t for t in tasks if t.name == name)
    return task.window + (0 if task.window_from == "impression" else maturity(tasks, task.window_from))
