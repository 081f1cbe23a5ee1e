"""Small random worlds, and the labels of each computed by naive replay of time."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import polars as pl
from hypothesis import strategies as st

from ctr_pipeline.labels import label_impressions
from ctr_pipeline.spec.tasks import Label, Task

DAY_US = 86_400_000_000
IMPRESSIONS = {
    "day": pl.Date,
    "impression_id": pl.String,
    "ts": pl.Int64,
    "ingest_ts": pl.Int64,
}
EVENTS = {
    "impression_id": pl.String,
    "event": pl.String,
    "kind": pl.String,
    "event_ts": pl.Int64,
    "ingest_ts": pl.Int64,
}


@dataclass(frozen=True)
class Impression:
    name: str
    ts: int
    ingest_ts: int


@dataclass(frozen=True, order=True)
class Event:
    impression: str
    task: str
    kind: str
    event_ts: int
    ingest_ts: int


@dataclass(frozen=True)
class World:
    impressions: tuple[Impression, ...]
    events: tuple[Event, ...]

    def label(self, tasks: Sequence[Task], as_of: int, lag: int = 0) -> pl.DataFrame:
        frames = self.frames()
        labels = label_impressions(frames[0].lazy(), frames[1].lazy(), tasks, as_of, lag)
        return labels.collect().sort("task", "impression_id")

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        shown = [(date(1970, 1, 1), i.name, i.ts, i.ingest_ts) for i in self.impressions]
        events = [(e.impression, e.task, e.kind, e.event_ts, e.ingest_ts) for e in self.events]
        return (
            pl.DataFrame(shown, schema=IMPRESSIONS, orient="row"),
            pl.DataFrame(events, schema=EVENTS, orient="row"),
        )

    def with_events(self, events: Sequence[Event]) -> "World":
        return replace(self, events=tuple(events))


def states(labels: pl.DataFrame) -> dict[tuple[str, str], str]:
    return {(row["impression_id"], row["task"]): row["state"] for row in labels.iter_rows(named=True)}


# Short windows, so that edges, ties and overlaps are common in small worlds.
CLICKS = (Task(name="click", window=3, label=Label(event="click")),)
FUNNEL = (
    *CLICKS,
    Task(name="cart", parent="click", window=4, window_from="click", label=Label(event="cart")),
    Task(name="buy", parent="cart", window=5, window_from="click", label=Label(event="buy")),
)
CREDIT = (
    *FUNNEL[:2],
    Task(name="application", parent="cart", window=5, window_from="click", label=Label(event="application")),
    Task(name="approval", parent="application", window=4, window_from="click", label=Label(event="approval")),
)
NESTED = (
    *CLICKS,
    Task(name="cart", parent="click", window=2, window_from="click", label=Label(event="cart")),
    Task(name="buy", parent="click", window=3, window_from="cart", label=Label(event="buy")),
)
SHORT_CHILD = (
    Task(name="click", window=6, label=Label(event="click")),
    Task(name="buy", parent="click", window=2, label=Label(event="buy")),
)
CASES = (
    Task(name="accepted", window=3, label=Label(column="a", log="decisions")),
    Task(name="approved", parent="accepted", window=6, label=Label(time_column="b", closed_by=["c"])),
)
COLUMNS = (
    Task(name="click", window=0, label=Label(column="click")),
    Task(name="buy", parent="click", window=0, label=Label(column="buy")),
)
FUNNELS = (CLICKS, FUNNEL, CREDIT, NESTED, SHORT_CHILD, CASES, COLUMNS)


@st.composite
def worlds(draw: st.DrawFn, tasks: Sequence[Task]) -> World:
    """Many impressions a world, each with few events: one call of the pipeline tests them all."""
    return random_world(tasks, size=draw(st.integers(1, 150)), seed=draw(st.integers(0, 2**32)))


def random_world(tasks: Sequence[Task], size: int, seed: int) -> World:
    pick = random.Random(seed)
    impressions, events = [], []
    for number in range(size):
        ts = pick.randint(2, 8)
        shown = Impression(f"i{number:03}", ts, ts + pick.choice([0, 0, 0, 1, 5, 12]))
        impressions.append(shown)
        for _ in range(pick.choice([0, 1, 2, 3, 4, 6, 9, 4 * len(tasks)])):
            # Any time, so also before the impression, late and out of order; "zz" is no impression.
            event_ts = pick.choice([pick.randint(0, 24), ts + pick.randint(0, 6)])
            event = Event(
                impression=pick.choice([shown.name] * 9 + ["zz"]),
                task=pick.choice(tasks).name,
                kind=pick.choice(["outcome", "outcome", "outcome", "closed", "unknown"]),
                event_ts=event_ts,
                ingest_ts=event_ts + pick.choice([0, 0, 1, 2, 7, 20]),
            )
            events.append(event)
    pick.shuffle(events)
    return World(tuple(impressions), tuple(events))


def oracle(world: World, tasks: Sequence[Task], as_of: int, lag: int = 0) -> dict[tuple[str, str], str]:
    """States as of ``as_of``, found by living through every instant from 0 on and asking what is visible then."""
    result = {}
    for impression in world.impressions:
        if impression.ingest_ts > as_of:
            continue
        became: dict[str, tuple[str, int]] = {}
        for now in range(impression.ingest_ts, as_of + 1):
            visible = [e for e in world.events if e.impression == impression.name and e.ingest_ts <= now]
            for task in tasks:
                before = became.get(task.name, ("CENSORED", 0))
                became[task.name] = _step(before, impression, visible, tasks, task, now, lag, became)
        for task in tasks:
            result[impression.name, task.name] = became[task.name][0]
    return result


def _step(
    before: tuple[str, int],
    impression: Impression,
    visible: list[Event],
    tasks: Sequence[Task],
    task: Task,
    now: int,
    lag: int,
    became: dict[str, tuple[str, int]],
) -> tuple[str, int]:
    if before[0] in ("POSITIVE", "LATE_POSITIVE"):
        return before
    mature = max(impression.ts + _maturity(tasks, task) + lag, impression.ingest_ts)
    if counting(impression, visible, tasks, task):
        return ("LATE_POSITIVE" if now > mature else "POSITIVE", now)
    mine = [e for e in visible if e.task == task.name]
    late = _after_window(impression, visible, tasks, task)
    if before[0] == "CENSORED" and now >= mature:
        closed = any(e.kind == "closed" and e.event_ts >= impression.ts for e in mine)
        decided = closed or late if task.label.closed_by or task.label.log else True
        known = not any(e.kind == "unknown" for e in mine)
        # A parent that has become positive by now settles nothing.
        parent_negative = task.parent is not None and became[task.parent][0] in ("NEGATIVE", "OUT_OF_WINDOW")
        if (decided and known) or parent_negative:
            before = ("NEGATIVE", now)
    if before[0] == "CENSORED":
        return before
    return ("OUT_OF_WINDOW" if late else "NEGATIVE", now)


def counting(impression: Impression, visible: list[Event], tasks: Sequence[Task], task: Task) -> set[int]:
    """Times of the outcomes that count."""
    if task.parent is not None and not counting(impression, visible, tasks, _named(tasks, task.parent)):
        return set()
    starts = _starts(impression, visible, tasks, task)
    times = _outcomes(impression, visible, task)
    return {t for t in times if any(start <= t <= start + task.window for start in starts)}


def _after_window(impression: Impression, visible: list[Event], tasks: Sequence[Task], task: Task) -> bool:
    starts = _starts(impression, visible, tasks, task)
    ends = [start + task.window for start in starts]
    return any(
        any(t > end for end in ends) and not any(start <= t <= end for start, end in zip(starts, ends, strict=True))
        for t in _outcomes(impression, visible, task)
    )


def _starts(impression: Impression, visible: list[Event], tasks: Sequence[Task], task: Task) -> set[int]:
    if task.window_from == "impression":
        return {impression.ts}
    return counting(impression, visible, tasks, _named(tasks, task.window_from))


def _outcomes(impression: Impression, visible: list[Event], task: Task) -> set[int]:
    mine = (e for e in visible if e.task == task.name and e.kind == "outcome")
    return {e.event_ts for e in mine if e.event_ts >= impression.ts}


def _maturity(tasks: Sequence[Task], task: Task) -> int:
    window = task.window
    origin = task
    while origin.window_from != "impression":
        origin = _named(tasks, origin.window_from)
        window += origin.window
    return window if task.parent is None else max(window, _maturity(tasks, _named(tasks, task.parent)))


def _named(tasks: Sequence[Task], name: str) -> Task:
    return next(task for task in tasks if task.name == name)
