"""The timeline of a label, against labelling from scratch at every instant."""

from datetime import date

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from ctr_pipeline.labels import REVISION_COLUMNS, label_facts, revisions
from ctr_pipeline.spec.tasks import Task
from ctr_pipeline_tests.labels.worlds import (
    CASES,
    CLICKS,
    FUNNEL,
    FUNNELS,
    Event,
    Impression,
    World,
    random_world,
    worlds,
)

END = 45
KEY = ["impression_id", "task"]
few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
funnel = pytest.mark.parametrize("tasks", FUNNELS, ids=lambda tasks: "-".join(task.name for task in tasks))


def timeline(world: World, tasks: tuple[Task, ...], as_of: int, lag: int, seen_at: int) -> pl.DataFrame:
    shown, events = (frame.lazy() for frame in world.frames())
    facts = label_facts(shown, events, tasks, seen_at, lag)
    return revisions(shown, facts, tasks, as_of, lag).collect().sort(*KEY, "from_ts")


@funnel
@few
@given(data=st.data())
def test_at_every_instant_the_interval_says_what_labelling_from_scratch_says(
    tasks: tuple[Task, ...], data: st.DataObject
) -> None:
    world = data.draw(worlds(tasks))
    as_of, lag = data.draw(st.integers(0, END)), data.draw(st.sampled_from([0, 0, 2]))
    found = timeline(world, tasks, as_of, lag, seen_at=data.draw(st.integers(as_of, END + 5)))
    # Every instant up to the end: all times of the worlds are small integers.
    for instant in range(as_of + 1):
        as_of_then = found.filter(
            pl.col("from_ts") <= instant, pl.col("until_ts").is_null() | (pl.col("until_ts") > instant)
        )
        expected = world.label(tasks, instant, lag)
        values = {"POSITIVE": 1, "LATE_POSITIVE": 1, "NEGATIVE": 0, "OUT_OF_WINDOW": 0, "CENSORED": None}
        expected = expected.with_columns(value=pl.col("state").replace_strict(values, return_dtype=pl.Int8))
        columns = [*KEY, "state", "value", "revision"]
        assert_frame_equal(as_of_then.select(columns), expected.sort(KEY).select(columns))


@funnel
@few
@given(data=st.data())
def test_intervals_follow_each_other_and_only_censored_ones_have_an_age(
    tasks: tuple[Task, ...], data: st.DataObject
) -> None:
    world = data.draw(worlds(tasks))
    found = timeline(world, tasks, END, 0, END)
    assert tuple(found.columns) == REVISION_COLUMNS
    following = found.with_columns(next_ts=pl.col("from_ts").shift(-1).over(KEY))
    assert following.filter(pl.col("until_ts").ne_missing(pl.col("next_ts"))).is_empty()
    repeated = found.with_columns(before=pl.col("state").shift(1).over(KEY))
    assert repeated.filter(pl.col("state") == pl.col("before")).is_empty()
    censored = found["state"] == "CENSORED"
    assert (found["elapsed"].is_not_null() == censored).all()
    end = found["until_ts"].fill_null(END)
    assert ((end - found["ts"]).filter(censored) == found["elapsed"].filter(censored)).all()


def test_a_late_outcome_is_a_revision() -> None:
    world = World(
        (Impression("a", 10, 11), Impression("b", 10, 10)), (Event("a", "click", "outcome", 12, 20),)
    )  # fmt: skip
    found = timeline(world, CLICKS, 30, 0, 30)
    assert found.select("impression_id", *REVISION_COLUMNS[4:]).rows() == [
        ("a", 11, 13, "CENSORED", None, 3, 0),
        ("a", 13, 20, "NEGATIVE", 0, None, 0),
        ("a", 20, None, "LATE_POSITIVE", 1, None, 1),
        ("b", 10, 13, "CENSORED", None, 3, 0),
        ("b", 13, None, "NEGATIVE", 0, None, 0),
    ]
    assert found["day"].unique().to_list() == [date(1970, 1, 1)]


def test_an_undecided_case_stays_censored_however_old_and_its_late_outcome_revises_nothing() -> None:
    world = World((Impression("a", 0, 0),), (Event("a", "accepted", "outcome", 2, 30),))
    before = timeline(world, CASES, 29, 0, 40).filter(pl.col("task") == "accepted")
    assert before.select(REVISION_COLUMNS[4:]).rows() == [(0, None, "CENSORED", None, 29, 0)]
    after = timeline(world, CASES, 40, 0, 40).filter(pl.col("task") == "accepted")
    assert after.select(REVISION_COLUMNS[4:]).rows() == [
        (0, 30, "CENSORED", None, 30, 0),
        (30, None, "LATE_POSITIVE", 1, None, 0),
    ]


def test_duckdb_gives_the_same_rows() -> None:
    world = random_world(FUNNEL, size=60, seed=5)
    shown, events = world.frames()
    with duckdb.connect() as session:
        tables = [session.from_arrow(frame.to_arrow()) for frame in (shown, events)]
        facts = label_facts(tables[0], tables[1], FUNNEL, END, 2)
        found = revisions(tables[0], facts, FUNNEL, END, 2).pl()
    expected = timeline(world, FUNNEL, END, 2, END)
    assert_frame_equal(found.sort(*KEY, "from_ts"), expected, check_dtypes=False)
