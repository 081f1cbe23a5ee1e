"""A slow oracle of labels: it replays time, one impression after the other, in plain Python.

Written from the definitions in the docstrings of `label_impressions` and `LabelState`. At each instant at which
anything can change, everything is worked out again from the events that had arrived by then; what stays is only the
memory that the definitions ask for: when a row was first known, and when it was settled.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ctr_pipeline.spec.tasks import Task

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Event(NamedTuple):
    """A row of outcome_events; times in microseconds since the impression."""

    task: str
    kind: str  # outcome, closed or unknown
    at: int
    arrived: int


@dataclass(frozen=True, slots=True)
class World:
    """One impression, shown at time 0, and its events."""

    arrived: int
    events: tuple[Event, ...]


class Answer(NamedTuple):
    """What the definitions say of one task of the impression, as of one instant."""

    state: str
    known_ts: int | None
    event_ts: int | None
    settled_ts: int | None
    out_of_window_ts: int | None
    out_of_window_known_ts: int | None
    revision: int
    mature_ts: int


Story: TypeAlias = list[tuple[int, dict[str, Answer]]]


def task(name: str, window: int, parent: str | None = None, start: str = "impression", **label: object) -> Task:
    written = {"name": name, "parent": parent, "window": f"{window // HOUR}h", "window_from": start}
    return Task.model_validate({**written, "label": label or {"event": name}})


def case(name: str, window: int, parent: str | None = None) -> Task:
    return task(name, window, parent, time_column=f"{name}_at", closed_by=["declined", "cancelled"])


FUNNELS: dict[str, tuple[Task, ...]] = {
    "shop": (
        task("click", DAY),
        task("cart", 14 * DAY, "click", "click"),
        task("checkout", 14 * DAY, "cart", "click"),
    ),
    "credit": (
        task("click", DAY),
        task("application", 14 * DAY, "click", "click"),
        task("conversion", 14 * DAY, "application", "click"),
        task("approval", 14 * DAY, "conversion", "click"),
    ),
    # Each window from the step before it, and a short window after a long one.
    "steps": (
        task("click", DAY),
        task("application", 14 * DAY, "click", "click"),
        task("approval", 7 * DAY, "application", "application"),
        task("view", HOUR, "approval"),
    ),
    "cases": (case("offer", 3 * DAY), case("accepted", 14 * DAY, "offer"), case("approved", 21 * DAY, "accepted")),
    # A case that follows a plain event, and a plain event that follows a case.
    "mixed": (task("click", DAY), case("offer", 3 * DAY, "click"), task("sale", 7 * DAY, "offer", "offer")),
    "column": (task("click", 0, column="clicked"), task("cart", 14 * DAY, "click", "click")),
    "columns": (task("click", 0, column="clicked"), task("bought", 0, "click", column="bought")),
}


def chain(tasks: Sequence[Task], name: str) -> int:
    """The task's window and those of the tasks from which it starts."""
    own = next(t for t in tasks if t.name == name)
    return own.window + (0 if own.window_from == "impression" else chain(tasks, own.window_from))


def maturity(tasks: Sequence[Task], name: str) -> int:
    """Microseconds after the impression: the longest chain of the task and of its ancestors."""
    own = next(t for t in tasks if t.name == name)
    return max(chain(tasks, name), 0 if own.parent is None else maturity(tasks, own.parent))


def maturities(tasks: Sequence[Task], lag: int) -> dict[str, int]:
    """Microseconds from an impression to the maturity of each task, if the impression itself has arrived by then."""
    return {t.name: maturity(tasks, t.name) + lag for t in tasks}


def replay(tasks: Sequence[Task], world: World, matures: Mapping[str, int], max_early: int = 0) -> Story:
    """The answers from each instant on at which anything can change, in order of time.

    Before the first of them the impression had not arrived, and there are no answers. ``matures`` is what
    :func:`maturities` says of the tasks. What happens at most ``max_early`` before the impression happens with it.
    """
    events = [event._replace(at=0) if -max_early <= event.at < 0 else event for event in world.events]
    mature = {name: max(world.arrived, interval) for name, interval in matures.items()}
    instants = {world.arrived, *mature.values(), *(event.arrived for event in events)}
    known: dict[str, tuple[int, int]] = {}
    settled: dict[str, int] = {}
    missed: dict[str, tuple[int, int]] = {}
    story = []
    for now in sorted(instant for instant in instants if instant >= world.arrived):
        seen = [event for event in events if event.arrived <= now and event.at >= 0]
        counting: dict[str, list[int]] = {}
        answers: dict[str, Answer] = {}
        for own in tasks:
            name = own.name
            happened = [event.at for event in seen if event.task == name and event.kind == "outcome"]
            kinds = {event.kind for event in seen if event.task == name}
            starts = [0] if own.window_from == "impression" else counting[own.window_from]
            inside = [at for at in happened if any(start <= at <= start + own.window for start in starts)]
            after = [at for at in happened if at not in inside and any(at > start + own.window for start in starts)]
            if after and name not in missed:
                missed[name] = min(after), now
            counting[name] = inside if own.parent is None or counting[own.parent] else []
            if counting[name] and name not in known:
                known[name] = now, min(counting[name])
            if name not in known and name not in settled and now >= mature[name]:
                decided = not own.label.closed_by or "closed" in kinds or name in missed
                # Not where the parent's label has become positive since it was settled.
                parent_failed = own.parent in settled and own.parent not in known
                if parent_failed or (decided and "unknown" not in kinds):
                    settled[name] = now
            if name in known:
                state = "POSITIVE" if known[name][0] <= mature[name] else "LATE_POSITIVE"
            elif name in settled:
                state = "OUT_OF_WINDOW" if name in missed else "NEGATIVE"
            else:
                state = "CENSORED"
            never = None, None
            revision = int(name in known and name in settled)
            answers[name] = Answer(
                state,
                *known.get(name, never),
                settled.get(name),
                *missed.get(name, never),
                revision,
                mature[name],
            )
        story.append((now, answers))
    return story


def answers_as_of(story: Story, as_of: int) -> dict[str, Answer]:
    """The answers of the last instant of ``story`` up to ``as_of``; none if the impression had not arrived."""
    return next((answers for instant, answers in reversed(story) if instant <= as_of), {})


def random_world(pick: random.Random, tasks: Sequence[Task], matures: Mapping[str, int]) -> World:
    """Short of an instant, at it, after it: events and arrivals on the edges of windows, maturities and each other."""
    intervals = sorted(set(matures.values()))
    arrived = pick.choice((0, 0, 0, 0, 1, MINUTE, 30 * HOUR, 40 * DAY))
    if pick.random() < 0.1:
        arrived = max(0, _near(pick, intervals))
    events: list[Event] = []
    closing = pick.randrange(30 * DAY) if pick.random() < 0.5 else None
    for own in tasks:
        if own.label.column is not None and pick.random() < 0.3:
            unknown = _near(pick, intervals) if pick.random() < 0.5 else arrived
            events.append(Event(own.name, "unknown", 0, max(unknown, 0)))
        if own.label.closed_by and closing is not None:
            late = pick.choice((0, 0, DAY, 40 * DAY))
            events.append(Event(own.name, "closed", closing, closing + late))
        for _ in range(pick.choice((0, 1, 1, 1, 1, 2, 2, 3))):
            at = _happened(pick, own, [event for event in events if event.kind == "outcome"])
            events.append(Event(own.name, "outcome", at, _arrival(pick, at, arrived, intervals, events)))
    for again in pick.sample(events, min(len(events), pick.choice((0, 0, 0, 1, 2)))):
        later = pick.choice((again.arrived, again.arrived + 1, again.arrived + 20 * DAY))
        events.append(again._replace(arrived=later))
    pick.shuffle(events)
    return World(arrived, tuple(events))


def _near(pick: random.Random, instants: Sequence[int]) -> int:
    return pick.choice(instants) + pick.choice((-1, 0, 1))


def _happened(pick: random.Random, own: Task, before: Sequence[Event]) -> int:
    """On or beside an edge of the own window, seen from the impression or from any outcome of an earlier task."""
    starts = [event.at for event in before if event.task == own.window_from] or [0]
    if pick.random() < 0.15:
        starts = [0, *(event.at for event in before)]
    where = pick.random()
    if where < 0.4:
        return pick.choice(starts) + pick.randrange(own.window + 1)
    if where < 0.75:
        return pick.choice(starts) + pick.choice((0, own.window)) + pick.choice((-1, 0, 1))
    if where < 0.85:
        return pick.choice(starts) + pick.choice((own.window + pick.randrange(10 * DAY), -pick.randrange(1, DAY)))
    return pick.choice(starts)


def _arrival(pick: random.Random, at: int, shown: int, intervals: Sequence[int], before: Sequence[Event]) -> int:
    """Mostly soon; else late, or beside the arrival of something else, or beside a maturity."""
    how = pick.random()
    if how < 0.45:
        return at + pick.choice((0, 0, 1, MINUTE, HOUR))
    if how < 0.6:
        return at + pick.choice((DAY, 13 * DAY, 40 * DAY))
    beside = _near(pick, [shown, *(event.arrived for event in before)] if how < 0.8 else intervals)
    # A clock that runs ahead: now and then an event arrives before its own time.
    return beside if pick.random() < 0.1 else max(at, beside)


def random_instants(
    pick: random.Random, tasks: Sequence[Task], world: World, matures: Mapping[str, int]
) -> Iterator[int]:
    """Instants from which to look: beside a maturity, beside an arrival, beside a window's end, and long after."""
    yield _near(pick, [max(world.arrived, interval) for interval in matures.values()])
    yield _near(pick, [world.arrived, *(event.arrived for event in world.events)])
    yield _near(pick, [event.at + t.window for event in world.events for t in tasks] or [0])
    yield pick.choice((0, 100 * DAY, pick.randrange(40 * DAY)))
