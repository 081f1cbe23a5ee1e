"""Properties of labels on random worlds, against a naive replay of time."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from ctr_pipeline.labels import (
    LabelDay,
    LabelState,
    facts_in,
    join_labels,
    label_column,
    label_days,
    label_state_counts,
    label_table,
    labels_of,
    state_counts,
    states_as_of,
)
from ctr_pipeline.spec.tasks import Task
from ctr_pipeline_tests.labels.worlds import FUNNELS, Event, Impression, World, oracle, random_world, states, worlds

END = 45
few = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
funnel = pytest.mark.parametrize("tasks", FUNNELS, ids=lambda tasks: "-".join(task.name for task in tasks))
POSITIVE = ("POSITIVE", "LATE_POSITIVE")
NEGATIVE = ("NEGATIVE", "OUT_OF_WINDOW")
VALUES = {**dict.fromkeys(POSITIVE, 1), **dict.fromkeys(NEGATIVE, 0), "CENSORED": None}


@funnel
@few
@given(data=st.data())
def test_states_equal_those_of_a_naive_replay(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    world = data.draw(worlds(tasks))
    as_of, lag = data.draw(st.integers(0, END)), data.draw(st.sampled_from([0, 0, 2]))
    assert states(world.label(tasks, as_of, lag)) == oracle(world, tasks, as_of, lag)


@funnel
@few
@given(data=st.data())
def test_what_arrives_later_changes_nothing(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    world, as_of = data.draw(worlds(tasks)), data.draw(st.integers(0, 30))
    future = [replace(e, ingest_ts=as_of + 1 + e.ingest_ts) for e in data.draw(worlds(tasks)).events]
    past = [e for e in world.events if e.ingest_ts <= as_of]
    expected = world.with_events(past).label(tasks, as_of)
    assert_frame_equal(world.with_events([*past, *future]).label(tasks, as_of), expected)


@funnel
@few
@given(data=st.data())
def test_order_and_duplicates_do_not_matter(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    world, as_of = data.draw(worlds(tasks)), data.draw(st.integers(0, END))
    again: list[Event] = [*world.events, *world.events[::2]]
    random.Random(data.draw(st.integers(0, 99))).shuffle(again)
    assert_frame_equal(world.with_events(again).label(tasks, as_of), world.label(tasks, as_of))


@funnel
@few
@given(data=st.data())
def test_states_of_an_earlier_instant_equal_labels_from_scratch(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    world = data.draw(worlds(tasks))
    earlier, later = sorted((data.draw(st.integers(0, END)), data.draw(st.integers(0, END))))
    derived = states_as_of(world.label(tasks, later).lazy(), earlier).collect().sort("task", "impression_id")
    scratch = world.label(tasks, earlier)
    assert_frame_equal(derived, scratch.select(derived.columns))


@funnel
@few
@given(data=st.data())
def test_labels_are_revised_in_one_direction_only(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    world = data.draw(worlds(tasks))
    before: dict[tuple[str, str], str] = {}
    known: dict[tuple[str, str], tuple[int, int]] = {}
    for as_of in range(0, END, 5):
        labels = world.label(tasks, as_of)
        after = states(labels)
        for row, state in before.items():
            if state in POSITIVE:
                assert after[row] == state
            elif state in NEGATIVE:
                assert after[row] in (*NEGATIVE, "LATE_POSITIVE")
                assert (state, after[row]) != ("OUT_OF_WINDOW", "NEGATIVE")
        for row in labels.drop_nulls("known_ts").iter_rows(named=True):
            facts = (row["event_ts"], row["known_ts"])
            assert known.setdefault((row["impression_id"], row["task"]), facts) == facts
        before = after


@funnel
@few
@given(data=st.data())
def test_each_step_of_time_is_an_allowed_one(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    """Censored labels become positive or negative, a negative becomes positive only as late, and nothing goes back."""
    world, lag = data.draw(worlds(tasks)), data.draw(st.sampled_from([0, 2]))
    life = states_at_every_instant(world, tasks, lag)
    for (_, name), states_in_time in life.items():
        task = next(task for task in tasks if task.name == name)
        allowed = {
            "CENSORED": {"POSITIVE", *NEGATIVE},
            "NEGATIVE": {"OUT_OF_WINDOW", "LATE_POSITIVE"},
            "OUT_OF_WINDOW": {"LATE_POSITIVE"},
            "POSITIVE": set(),
            "LATE_POSITIVE": set(),
        }
        if (
            task.label.closed_by
            or task.label.log
            or any(event.kind == "unknown" and event.task == name for event in world.events)
        ):
            # What time alone does not settle may be censored after its maturity, and be found positive then.
            allowed["CENSORED"].add("LATE_POSITIVE")
        for before, after in pairwise(states_in_time):
            assert after == before or after in allowed[before]


@funnel
@few
@given(data=st.data())
def test_what_is_mature_stays_mature(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    world, lag = data.draw(worlds(tasks)), data.draw(st.sampled_from([0, 2]))
    earlier, later = sorted((data.draw(st.integers(0, END)), data.draw(st.integers(0, END))))
    mature, settled = [], []
    for as_of in (earlier, later):
        labels = world.label(tasks, as_of, lag)
        rows = labels.filter(pl.col("mature_ts") <= as_of)
        mature.append(set(rows.select("impression_id", "task", "mature_ts").rows()))
        settled.append(set(labels.filter(pl.col("state") != "CENSORED").select("impression_id", "task").rows()))
    assert mature[0] <= mature[1]
    assert settled[0] <= settled[1]


@funnel
@few
@given(data=st.data())
def test_a_label_is_at_most_that_of_each_step_before(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    """y_approval <= y_conversion <= y_application <= y_click, as joined to the impressions."""
    world, as_of = data.draw(worlds(tasks)), data.draw(st.integers(0, END))
    shown, events = world.frames()
    table = label_table(shown.lazy(), events.lazy(), tasks, as_of)
    arrived = shown.lazy().filter(pl.col("ingest_ts") <= as_of)
    labels = join_labels(arrived, table, tasks, [task.name for task in tasks], as_of).collect()
    for task in tasks:
        if task.parent is not None:
            child, parent = pl.col(label_column(task.name)), pl.col(label_column(task.parent))
            # An unknown parent (null) is no excuse for a positive child.
            assert labels.filter(child > parent.fill_null(0)).is_empty()


@funnel
@few
@given(data=st.data())
def test_a_child_is_positive_only_with_its_parent(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    world, as_of = data.draw(worlds(tasks)), data.draw(st.integers(0, END))
    found = states(world.label(tasks, as_of))
    for (impression, name), state in found.items():
        parent = next(task.parent for task in tasks if task.name == name)
        if parent is not None and state in POSITIVE:
            assert found[impression, parent] in POSITIVE


def states_at_every_instant(world: World, tasks: Sequence[Task], lag: int) -> dict[tuple[str, str], list[str]]:
    """The states of each row from the arrival of its impression to ``END``, by one call.

    The world is copied once an instant, each copy shifted so that its instant is ``END``.
    """
    shown = [
        Impression(f"{i.name}@{now:02}", i.ts + END - now, i.ingest_ts + END - now)
        for i in world.impressions
        for now in range(END + 1)
    ]
    events = [
        Event(f"{e.impression}@{now:02}", e.task, e.kind, e.event_ts + END - now, e.ingest_ts + END - now)
        for e in world.events
        for now in range(END + 1)
    ]
    found = states(World(tuple(shown), tuple(events)).label(tasks, END, lag))
    life: dict[tuple[str, str], list[str]] = {}
    for (copy, name), state in sorted(found.items()):
        life.setdefault((copy.split("@")[0], name), []).append(state)
    for impression in world.impressions:
        if impression.ingest_ts <= END:
            assert {len(life[impression.name, task.name]) for task in tasks} == {END - impression.ingest_ts + 1}
    return life


def test_the_worlds_reach_every_state() -> None:
    """The properties above would prove little on worlds that are all alike."""
    reached: dict[tuple[int, str], set[str]] = {}
    for number, tasks in enumerate(FUNNELS):
        world = random_world(tasks, size=150, seed=1)
        for as_of in (12, 20, END):
            for (_, name), state in oracle(world, tasks, as_of).items():
                reached.setdefault((number, name), set()).add(state)
    assert all(len(found) == 5 for found in reached.values()), reached


@funnel
@few
@given(data=st.data())
def test_stored_facts_give_the_labels_of_any_earlier_instant(tasks: tuple[Task, ...], data: st.DataObject) -> None:
    world, lag = data.draw(worlds(tasks)), data.draw(st.sampled_from([0, 2]))
    earlier, later = sorted((data.draw(st.integers(0, END)), data.draw(st.integers(0, END))))
    shown, events = world.frames()
    table = label_table(shown.lazy(), events.lazy(), tasks, later, lag)
    scratch = world.label(tasks, earlier, lag)
    derived = labels_of(shown.lazy(), facts_in(table), tasks, earlier, lag).collect().sort("task", "impression_id")
    assert_frame_equal(derived, scratch)
    assert label_state_counts(shown.lazy(), table, tasks, earlier, lag) == {
        task.name: state_counts(scratch.lazy()).get(task.name, dict.fromkeys(LabelState, 0)) for task in tasks
    }
    arrived = shown.lazy().filter(pl.col("ingest_ts") <= earlier)
    joined = join_labels(arrived, table, tasks, [task.name for task in tasks], earlier, lag).collect()
    for task in tasks:
        expected = {
            row["impression_id"]: VALUES[row["state"]]
            for row in scratch.filter(pl.col("task") == task.name).iter_rows(named=True)
        }
        assert dict(zip(joined["impression_id"], joined[label_column(task.name)], strict=True)) == expected


@funnel
def test_only_impressions_of_which_something_is_known_are_stored(tasks: tuple[Task, ...]) -> None:
    shown, events = random_world(tasks, 100, 5).frames()
    table = label_table(shown.lazy(), events.lazy(), tasks, 12).collect()
    arrived = shown.filter(pl.col("ingest_ts") <= 12)
    known = events.filter(pl.col("ingest_ts") <= 12)["impression_id"].unique()
    facts = table.drop_nulls("impression_id")
    assert set(facts["impression_id"]) <= set(known)
    assert 0 < facts["impression_id"].n_unique() < arrived.height
    assert facts.height == facts["impression_id"].n_unique() * len(tasks)
    assert label_days(table.lazy()) == {shown["day"][0]: LabelDay(12, arrived.height)}
