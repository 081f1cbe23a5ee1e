"""What is known of one impression's outcomes: :func:`~ctr_pipeline.labels.labelling.label_facts`, an event at a time."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ctr_pipeline.labels.states import label_maturity
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.tasks import Task


class Arrived(NamedTuple):
    """An outcome event of an impression; times in microseconds."""

    task: str
    ts: int
    """When it happened."""
    arrived: int
    """When it was known."""


class Fact(NamedTuple):
    """The outcome that was known first."""

    ts: int
    known: int


def known_outcomes(
    tasks: Sequence[Task], ts: int, arrived: int, events: Sequence[Arrived], max_early: int
) -> Mapping[str, Fact]:
    """The tasks of which an outcome counts, with the one that was known first.

    As for labels: it must lie in the window of its start, a start and a parent must count themselves, and it is known
    once all of them and the impression are. Of outcomes known at one instant the earliest is taken.

    Args:
        tasks: Tasks of the spec, parents first, all of outcome events.
        ts: Time of the impression.
        arrived: When the impression was known.
        events: Its events.
        max_early: Microseconds by which an event may come before its impression; it then counts as at it.
    """
    hits: dict[str, list[Fact]] = {}
    facts: dict[str, Fact] = {}
    for task in tasks:
        found = hits[task.name] = []
        if task.parent is not None and task.parent not in facts:
            continue
        parent_known = 0 if task.parent is None else facts[task.parent].known
        starts = [Fact(ts, arrived)] if task.window_from == "impression" else hits[task.window_from]
        for event in events:
            if event.task != task.name or event.ts < ts - max_early:
                continue
            at = max(event.ts, ts)
            known = max(event.arrived, arrived, parent_known)
            found += [Fact(at, max(known, since.known)) for since in starts if since.ts <= at <= since.ts + task.window]
        if found:
            facts[task.name] = min(found, key=lambda fact: (fact.known, fact.ts))
    return facts


def patience(spec: Spec, task: str | None) -> int:
    """Microseconds after an impression beyond which what becomes known of it does not count, as in training."""
    if task is None:
        return DAY_US
    return (-(-(label_maturity(spec.tasks, task) + spec.split.ingest_lag) // DAY_US) + 1) * DAY_US
