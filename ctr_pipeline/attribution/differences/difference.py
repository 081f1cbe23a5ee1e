"""One difference between two retrains: what it is of, in words, and what else would bring it about."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

Kind = Literal[
    "spec",
    "code",
    "libraries",
    "key",
    "time",
    "rows",
    "labels",
    "feature",
    "category",
    "vocabulary",
    "history",
    "training",
    "drift",
]
"""What a difference is of: what the user declared; what computed; the key of the hashes; the clock of the impressions;
which impressions there are; their outcomes; a number; a category; the fitted ids; values of the past; the course of the
training; and the world, where nothing of these changed."""

Source = tuple[Kind, str]
"""A kind, and the beginning of a subject; an empty one for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference between an old and a new retrain.

    Attributes:
        kind: What it is of.
        subject: Which one: a feature, a task, the path of a field of the spec, a file.
        form: What happened to it, in one or two words, such as ``unit`` or ``outage``.
        sentence: The same for a person who does not know the pipeline.
        share: Share of the compared rows that it concerns, 0 to 1.
        since: First day that it concerns, where earlier days do not have it.
        evidence: What was found, sentences.
        against: What speaks against it, sentences.
        follows: Differences that bring this one about: where one of them is there, this one is no cause of its own.
        features: Features of which a model reads other values by it.
        other: The feature whose values it has, where it has those of another.
        lag: By how many days its values are older than they were, where they are those of other days.
        paired: Whether the same impressions of both sides were compared; else distributions were, which is less sure.
        minor: Whether it can change the last digits alone, such as another processor.
    """

    kind: Kind
    subject: str
    form: str
    sentence: str
    share: float = 1.0
    since: date | None = None
    evidence: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    follows: tuple[Source, ...] = ()
    features: tuple[str, ...] = ()
    other: str | None = None
    lag: int | None = None
    paired: bool = True
    minor: bool = False

    def brought_about_by(self, others: Iterable["Difference"]) -> "Difference | None":
        """The first of ``others`` that brings it about; None where it is a cause of its own."""
        for other in others:
            if other is self:
                continue
            for kind, subject in self.follows:
                if other.kind == kind and other.subject.startswith(subject):
                    return other
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "form": self.form,
            "sentence": self.sentence,
            "share": self.share,
            "since": None if self.since is None else self.since.isoformat(),
            "evidence": list(self.evidence),
            "against": list(self.against),
            "paired": self.paired,
        }


def percent(share: float) -> str:
    """A share in words: with a digit behind the point below ten percent."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{share:.0%}".replace("%", " %") if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"


def number(value: float) -> str:
    """A number to four digits."""
    return f"{value:.4g}"


def day_of(instant: int) -> date:
    """The UTC day of an instant in microseconds."""
    return datetime.fromtimestamp(instant / 1e6, UTC).date()
