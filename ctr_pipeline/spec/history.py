"""What the model may look at of the past: aggregates of a key's impressions and outcomes before the day began."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.encodings import AnyEncoding
from ctr_pipeline.spec.fields import DAY_US, Duration, Name, Section, added_field

MOST_PLACES = 50
"""Most past impressions that are inputs of their own."""

IMPRESSION = "impression"
"""Kind of an event of a sequence that is an impression; the others are called as the task whose outcome they are."""


class HistoryRate(Section):
    """Smoothed outcome rate of a key's past impressions, from mature impressions only.

    (outcomes + smoothing · overall rate) / (impressions + smoothing).
    """

    kind: Literal["rate"] = "rate"
    name: Name = Field(description="Name of the feature.")
    key: Name = Field(description="`user`, or the name of a categorical feature, whose past is counted.")
    task: Name = Field(description="Task whose outcomes are counted.")
    days: int = Field(gt=0, le=365, description="Length of the cohort in days.")
    smoothing: float = Field(default=20.0, ge=0, description="Weight, in impressions, of the overall rate.")
    exact: bool = Field(
        default=False,
        description="Look back from the impression itself, over what became known before it, instead of from the start of its day. Costs more, and serving needs the past at hand.",
    )
    encoding: AnyEncoding | None = added_field(
        None, "How it reaches the model; by default as `features.encoding` says."
    )


class HistoryCount(Section):
    """Number of a key's past impressions, or of its past outcomes of a task."""

    kind: Literal["count"] = "count"
    name: Name = Field(description="Name of the feature.")
    key: Name = Field(description="`user`, or the name of a categorical feature, whose past is counted.")
    task: Name | None = Field(default=None, description="Task whose outcomes are counted; impressions when absent.")
    days: int = Field(gt=0, le=365, description="Length of the window in days.")
    exact: bool = Field(
        default=False,
        description="Look back from the impression itself, over what became known before it, instead of from the start of its day. Costs more, and serving needs the past at hand.",
    )
    encoding: AnyEncoding | None = added_field(
        None, "How it reaches the model; by default as `features.encoding` says."
    )


class HistoryRecency(Section):
    """Seconds since a key's last outcome of a task (or last impression) that was known before the day began.

    Missing when there is none.
    """

    kind: Literal["recency"] = "recency"
    name: Name = Field(description="Name of the feature.")
    key: Name = Field(description="`user`, or the name of a categorical feature.")
    task: Name | None = Field(
        default=None, description="Task whose last outcome counts; the last impression when absent."
    )
    days: int = Field(default=30, gt=0, le=365, description="How far back to look, in days.")
    exact: bool = Field(
        default=False,
        description="Look back from the impression itself, over what became known before it, instead of from the start of its day. Costs more, and serving needs the past at hand.",
    )
    encoding: AnyEncoding | None = added_field(
        None, "How it reaches the model; by default as `features.encoding` says."
    )


class HistoryFirstSeen(Section):
    """Seconds since a key's first impression (or first outcome of a task) that was known before the day began: its age.

    Missing when there is none. A key seen before the interval looked at is as old as its first sight within it.
    """

    kind: Literal["first_seen"] = "first_seen"
    name: Name = Field(description="Name of the feature.")
    key: Name = Field(description="`user`, or the name of a categorical feature.")
    task: Name | None = Field(
        default=None, description="Task whose first outcome counts; the first impression when absent."
    )
    days: int = Field(default=30, gt=0, le=365, description="How far back to look, in days.")
    encoding: AnyEncoding | None = added_field(
        None, "How it reaches the model; by default as `features.encoding` says."
    )


class HistorySequence(Section):
    """What a key's last impressions (or outcomes of a task) were of, and how long ago, as known before the day began.

    Gives a category ``<name>_1`` and a number ``<name>_1_age`` (seconds before the impression) for the latest, and so
    on up to ``length``; missing where the past is shorter. With ``events`` instead three lists of equal length, the
    latest first: the items ``<name>``, their kinds ``<name>_event`` and their ages ``<name>_age``, which the modules of
    ``model.sequences`` read.
    """

    kind: Literal["sequence"] = "sequence"
    name: Name = Field(description="Name of the feature; its inputs are called by it and their place.")
    key: Name = Field(description="`user`, or the name of a categorical feature.")
    task: Name | None = Field(
        default=None, description="Task whose outcomes are listed; the impressions themselves when absent."
    )
    events: list[Name] | None = added_field(
        None,
        "Kinds of events that are listed together, for a module of `model.sequences`: `impression`, and tasks.",
        min_length=1,
    )
    exact: bool = added_field(
        False,
        "Look back from the impression itself, over what became known before it, instead of from the start of its day. Costs more, and serving needs the past at hand.",
    )
    item: Name = Field(description="Categorical feature of the past impression that is listed.")
    length: int = Field(default=5, gt=0, le=200, description="How many are listed, the latest first.")
    days: int = Field(default=30, gt=0, le=365, description="How far back to look, in days.")
    encoding: AnyEncoding | None = added_field(
        None, "How the numbers reach the model; by default as `features.encoding` says."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.events is None:
            if self.length > MOST_PLACES:
                raise ValueError(
                    f"`length: {self.length}` makes as many inputs: at most {MOST_PLACES}, or list the past under `events` "
                    "for a module of `model.sequences`"
                )
            return self
        if self.task is not None:
            raise ValueError(f"`events` says what is listed: move `task: {self.task}` into it")
        if self.encoding is not None:
            raise ValueError("ages of `events` are read by a module of `model.sequences` alone: remove `encoding`")
        if len(set(self.events)) < len(self.events):
            raise ValueError(f"`events` lists each kind once, found {', '.join(self.events)}")
        return self

    @property
    def tasks(self) -> tuple[str | None, ...]:
        """Tasks whose outcomes are listed, None for the impressions themselves."""
        if self.events is None:
            return (self.task,)
        return tuple(None if event == IMPRESSION else event for event in self.events)

    @property
    def items(self) -> tuple[str, ...]:
        """Names of the categories, the latest first."""
        return tuple(f"{self.name}_{place}" for place in range(1, self.length + 1))

    @property
    def ages(self) -> tuple[str, ...]:
        """Names of the numbers, the latest first."""
        if self.events is not None:
            return tuple(f"{self.age}[{place}]" for place in range(self.length))
        return tuple(f"{item}_age" for item in self.items)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds of the events, the latest first; empty where all are of one kind."""
        return () if self.events is None or len(self.events) == 1 else tuple(f"{item}_event" for item in self.items)

    @property
    def age(self) -> str:
        """Name of the list of ages."""
        return f"{self.name}_age"

    @property
    def event(self) -> str | None:
        """Name of the list of kinds; None where all events are of one kind."""
        return f"{self.name}_event" if self.kinds else None

    @property
    def stored(self) -> tuple[str, ...]:
        """What the history table calls its rows."""
        return (*self.items, *self.kinds)

    @property
    def lists(self) -> dict[str, tuple[str, ...]]:
        """For each list of ids that it gives, the names of its places."""
        if self.events is None:
            return {}
        return {self.name: self.items} | ({} if self.event is None else {self.event: self.kinds})


class HistoryTop(Section):
    """What a key interacted with most, as known before the day began: a list of ids, the one of most weight first.

    An impression (or an outcome of ``task``) of d days before weighs 2^(-d / ``half_life``). The embeddings of the ids,
    those of the ``item`` itself, are pooled; a key without a past has zeros.
    """

    kind: Literal["top"] = "top"
    name: Name = Field(description="Name of the feature.")
    key: Name = Field(description="`user`, or the name of a categorical feature, whose past is looked at.")
    task: Name | None = Field(
        default=None, description="Task whose outcomes count; the impressions themselves when absent."
    )
    item: Name = Field(description="Categorical feature of the past impressions whose ids are listed.")
    length: int = Field(default=10, gt=0, le=MOST_PLACES, description="How many ids are listed.")
    days: int = Field(default=30, gt=0, le=365, description="How far back to look, in days.")
    half_life: Duration = Field(default=7 * DAY_US, gt=0, description="Age at which an interaction counts half.")
    pooling: Literal["mean", "sum", "max"] = Field(
        default="mean", description="How the embeddings of the ids become one."
    )

    @property
    def items(self) -> tuple[str, ...]:
        """Names of the ids in the history table, the one of most weight first."""
        return tuple(f"{self.name}_{place}" for place in range(1, self.length + 1))

    @property
    def tasks(self) -> tuple[str | None, ...]:
        """The task whose outcomes count, None for the impressions themselves."""
        return (self.task,)

    @property
    def stored(self) -> tuple[str, ...]:
        """What the history table calls its rows."""
        return self.items

    @property
    def lists(self) -> dict[str, tuple[str, ...]]:
        """For each list of ids that it gives, the names of its places."""
        return {self.name: self.items}


HistoryNumber = HistoryRate | HistoryCount | HistoryRecency | HistoryFirstSeen
"""A feature of the past that is one number."""

HistoryList = HistorySequence | HistoryTop
"""A feature of the past that lists ids."""

HistoryFeature = Annotated[HistoryNumber | HistoryList, Field(discriminator="kind")]
"""Any feature of the past."""


def is_exact(feature: HistoryNumber | HistoryList) -> bool:
    """Whether a feature looks back from the impression itself, not from the start of its day."""
    return isinstance(feature, HistoryRate | HistoryCount | HistoryRecency | HistorySequence) and feature.exact
