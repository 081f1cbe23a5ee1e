"""Do the types of events stay the same over the days? Another spelling makes outcomes ignored events."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register

if TYPE_CHECKING:
    from ctr_pipeline.sources.event_types import TypeCounts

FEWEST_EXPECTED = 20
"""A type is absent where at least this many of its events are expected: by chance there are none once in 5 · 10⁸."""

CHANGED = 0.75
"""A used type falls where its events a day are at most this part of what they were."""

_HALVES = (0.4, 0.6)
_SHOWN_CHANGES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeEvidence:
    """The events of all days that are known."""

    counts: "TypeCounts"
    """Events by day of arrival and type; days without events of any type are no part of it."""
    used: Mapping[str, int]
    """The types that tasks use, each with the days after its impression within which it counts."""


@dataclass(frozen=True, slots=True)
class Change:
    """A type that is absent on the first days, or on the last ones."""

    kind: str
    day: date
    """The first day with it, or the first one without it."""
    appears: bool


def find_changes(evidence: TypeEvidence) -> list[Change]:
    """The types that appear or disappear, by day.

    A type that a task uses may be absent on the log's first days for as long as an outcome takes.
    """
    from ctr_pipeline.sources.event_types import UNNAMED, ignored_types

    days = sorted(day for day, of_day in evidence.counts.items() if of_day)
    kinds = {*evidence.used, *ignored_types(evidence.counts, evidence.used)} - {UNNAMED}
    found = []
    for kind in sorted(kinds):
        events = [evidence.counts[day].get(kind, 0) for day in days]
        # Where names are not given, an ignored type may be among the unnamed.
        hidden = [kind not in evidence.used and evidence.counts[day].get(UNNAMED, 0) > 0 for day in days]
        present = [number for number, count in enumerate(events) if count or hidden[number]]
        if not present or not sum(events):
            continue
        start, end = present[0], present[-1] + 1
        usual = sum(events) / (end - start)
        if usual * start >= FEWEST_EXPECTED and start > evidence.used.get(kind, 0):
            found.append(Change(kind, days[start], appears=True))
        if usual * (len(days) - end) >= FEWEST_EXPECTED:
            found.append(Change(kind, days[end], appears=False))
    return sorted(found, key=lambda change: (change.day, change.kind))


def check_event_types(evidence: TypeEvidence) -> Outcome:
    """Warning that names the types that appear or disappear, and those that differ from a used one in spelling."""
    from ctr_pipeline.sources.event_types import ignored_types

    changes = find_changes(evidence)
    texts = [_sentence(change, evidence) for change in changes[:_SHOWN_CHANGES]]
    if len(changes) > _SHOWN_CHANGES:
        texts.append(f"{len(changes) - _SHOWN_CHANGES} more types appear or disappear.")
    changing = {change.kind for change in changes}
    ignored = ignored_types(evidence.counts, evidence.used)
    for kind, events in ignored.items():
        if kind not in changing and (used := _same_word(kind, evidence.used)):
            texts.append(f"`{kind}` is ignored ({events} events), and differs from `{used}` in its spelling only.")
    remedy = (
        "Should they count? A task uses one value of the event log's `type` column: make the spelling the same there."
    )
    return Outcome(
        passed=not texts,
        metadata={"types_changed": len(changes), "ignored_events": sum(ignored.values())},
        description=" ".join([*texts, remedy]) if texts else None,
    )


def _sentence(change: Change, evidence: TypeEvidence) -> str:
    is_used = change.kind in evidence.used
    what = f"`{change.kind}` {'occurs' if is_used else 'is ignored'} from {change.day} on"
    if not change.appears:
        what = f"`{change.kind}` does not occur from {change.day} on"
    falls = [] if is_used else [text for kind in evidence.used if (text := _fall(kind, change, evidence))]
    also = f", while {' and '.join(falls)}" if falls else ""
    same = None if is_used else _same_word(change.kind, evidence.used)
    return what + also + (f": another spelling of `{same}`?" if same else ".")


def _fall(kind: str, change: Change, evidence: TypeEvidence) -> str | None:
    """How much rarer the used type is on the side of the change where the ignored one occurs."""
    sides: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for day, of_day in evidence.counts.items():
        if of_day:
            sides[(day >= change.day) == change.appears].update({"days": 1, "events": of_day.get(kind, 0)})
    with_it, without = sides[True], sides[False]
    usual = without["events"] / without["days"]
    if without["events"] < FEWEST_EXPECTED or with_it["events"] / with_it["days"] > CHANGED * usual:
        return None
    share = with_it["events"] / with_it["days"] / usual
    if not change.appears:
        return f"`{kind}` is {share:.0%} as frequent before as it is after"
    if not with_it["events"]:
        return f"`{kind}` disappears"
    return f"`{kind}` halves" if _HALVES[0] <= share <= _HALVES[1] else f"`{kind}` falls to {share:.0%}"


def _same_word(kind: str, used: Mapping[str, int]) -> str | None:
    """The used type that has the same letters and digits, whatever their case."""

    def letters(text: str) -> str:
        return "".join(letter for letter in text.casefold() if letter.isalnum())

    return next((name for name in used if letters(name) and letters(name) == letters(kind)), None)


register(
    CheckDefinition(
        asset="outcome_events",
        name="event_types",
        question="The types of events are the same on all days.",
        evaluate=lambda evidence: check_event_types(evidence.event_types),
    )
)
