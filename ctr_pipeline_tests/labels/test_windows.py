"""Edges, examples by hand, engines, and a real funnel."""

from datetime import timedelta
from pathlib import Path

import duckdb
import narwhals.stable.v2 as nw
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ctr_pipeline.labels import (
    LABEL_COLUMNS,
    LabelState,
    label_impressions,
    label_maturity,
    label_value,
    state_counts,
    states_as_of,
)
from ctr_pipeline.spec import load_spec
from ctr_pipeline.spec.tasks import Label, Task
from ctr_pipeline_tests.labels.worlds import (
    CASES,
    COLUMNS,
    DAY_US,
    FUNNEL,
    FUNNELS,
    NESTED,
    SHORT_CHILD,
    Event,
    Impression,
    World,
    random_world,
    states,
)

HOUR = DAY_US // 24
SHOWN = 1_700_000_000_000_000
ADS = (
    Task(name="click", window=24 * HOUR, label=Label(event="click")),
    Task(name="buy", parent="click", window=14 * DAY_US, window_from="click", label=Label(event="buy")),
)
FOREVER = SHOWN + 100 * DAY_US


def outcome(task: str, at: int, arrives: int | None = None, kind: str = "outcome") -> Event:
    return Event("a", task, kind, at, at if arrives is None else arrives)


def label(*events: Event, tasks: tuple[Task, ...] = ADS, as_of: int = FOREVER, lag: int = 0) -> dict[str, str]:
    world = World((Impression("a", SHOWN, SHOWN),), events)
    return {task: state for (_, task), state in states(world.label(tasks, as_of, lag)).items()}


@pytest.mark.parametrize(
    ("at", "state"),
    [
        (-1, "NEGATIVE"),
        (0, "POSITIVE"),
        (1, "POSITIVE"),
        (24 * HOUR - 1, "POSITIVE"),
        (24 * HOUR, "POSITIVE"),
        (24 * HOUR + 1, "OUT_OF_WINDOW"),
    ],
)
def test_both_ends_of_the_window_are_inside(at: int, state: str) -> None:
    assert label(outcome("click", SHOWN + at))["click"] == state


@pytest.mark.parametrize(
    ("after_click", "state"),
    [(-1, "NEGATIVE"), (0, "POSITIVE"), (14 * DAY_US, "POSITIVE"), (14 * DAY_US + 1, "OUT_OF_WINDOW")],
)
def test_a_window_from_a_click_starts_at_the_click(after_click: int, state: str) -> None:
    click = SHOWN + 5 * HOUR
    assert label(outcome("click", click), outcome("buy", click + after_click)) == {"click": "POSITIVE", "buy": state}


@pytest.mark.parametrize(
    ("task", "window"), [("click", 24 * HOUR), ("buy", 24 * HOUR + 14 * DAY_US)], ids=["click", "buy"]
)
@pytest.mark.parametrize("clicked", [False, True])
def test_maturity_is_the_same_clicked_or_not(task: str, window: int, clicked: bool) -> None:
    events = [outcome("click", SHOWN)] if clicked and task == "buy" else []
    assert label(*events, as_of=SHOWN + window - 1)[task] == "CENSORED"
    assert label(*events, as_of=SHOWN + window)[task] == "NEGATIVE"
    assert label(*events, as_of=SHOWN + window + HOUR - 1, lag=HOUR)[task] == "CENSORED"
    assert label(*events, as_of=SHOWN + window + HOUR, lag=HOUR)[task] == "NEGATIVE"


@pytest.mark.parametrize(
    ("arrives", "state"), [(24 * HOUR, "POSITIVE"), (24 * HOUR + 1, "LATE_POSITIVE"), (200 * DAY_US, "NEGATIVE")]
)
def test_an_outcome_known_after_maturity_is_late(arrives: int, state: str) -> None:
    assert label(outcome("click", SHOWN + HOUR, SHOWN + arrives))["click"] == state


def test_a_child_waits_for_its_parent() -> None:
    buy = outcome("buy", SHOWN + 2 * HOUR)
    late_click = outcome("click", SHOWN + HOUR, SHOWN + 20 * DAY_US)
    assert label(buy, late_click, as_of=SHOWN + DAY_US)["buy"] == "CENSORED"
    assert label(buy, late_click, as_of=SHOWN + 19 * DAY_US) == {"click": "NEGATIVE", "buy": "NEGATIVE"}
    assert label(buy, late_click) == {"click": "LATE_POSITIVE", "buy": "LATE_POSITIVE"}


def test_an_impression_that_has_not_arrived_has_no_label() -> None:
    world = World((Impression("a", 5, 9),), (Event("a", "click", "outcome", 6, 7),))
    assert world.label(FUNNEL, 8).is_empty()
    click = world.label(FUNNEL, 9).filter(pl.col("task") == "click").row(0, named=True)
    assert (click["state"], click["known_ts"], click["mature_ts"]) == ("POSITIVE", 9, 9)


def test_the_fact_that_was_known_first_stays() -> None:
    """A click that arrives later, but happened earlier, does not move what was built on the first one."""
    first, earlier = outcome("click", SHOWN + 5), outcome("click", SHOWN + 1, SHOWN + 50)
    world = World((Impression("a", SHOWN, SHOWN),), (earlier, first))
    click = world.label(ADS, FOREVER).filter(pl.col("task") == "click").row(0, named=True)
    assert (click["event_ts"], click["known_ts"]) == (SHOWN + 5, SHOWN + 5)


def case(*events: Event, as_of: int) -> dict[str, str]:
    world = World((Impression("a", 10, 10),), events)
    return {task: state for (_, task), state in states(world.label(CASES, as_of)).items()}


def test_an_undecided_case_is_never_a_negative() -> None:
    assert case(as_of=10_000) == {"accepted": "CENSORED", "approved": "CENSORED"}
    accepted = outcome("accepted", 11)
    assert case(accepted, as_of=10_000) == {"accepted": "POSITIVE", "approved": "CENSORED"}


def test_a_case_is_negative_once_closed_and_mature() -> None:
    closed = [outcome("accepted", 12, kind="closed"), outcome("approved", 12, kind="closed")]
    assert case(*closed, as_of=12) == {"accepted": "CENSORED", "approved": "CENSORED"}
    assert case(*closed, as_of=13) == {"accepted": "NEGATIVE", "approved": "CENSORED"}
    assert case(*closed, as_of=16) == {"accepted": "NEGATIVE", "approved": "NEGATIVE"}


def test_a_case_closed_after_its_window_is_negative_from_then_on() -> None:
    events = [outcome("accepted", 11), outcome("approved", 30, kind="closed")]
    assert case(*events, as_of=29)["approved"] == "CENSORED"
    assert case(*events, as_of=30)["approved"] == "NEGATIVE"


def test_a_case_that_succeeds_after_its_window_is_out_of_window() -> None:
    events = [outcome("accepted", 11), outcome("approved", 30)]
    assert case(*events, as_of=29)["approved"] == "CENSORED"
    assert case(*events, as_of=30)["approved"] == "OUT_OF_WINDOW"


def test_column_labels_are_final_when_logged() -> None:
    shown = tuple(Impression(name, 5, 9) for name in "pnu")
    events = (
        Event("p", "click", "outcome", 5, 9),
        Event("p", "buy", "unknown", 5, 9),
        Event("n", "buy", "unknown", 5, 9),
        Event("u", "click", "unknown", 5, 9),
    )
    found = states(World(shown, events).label(COLUMNS, 9))
    assert found == {
        ("p", "click"): "POSITIVE",
        ("p", "buy"): "CENSORED",
        ("n", "click"): "NEGATIVE",
        # Not clicked, so not bought, whatever the column leaves open.
        ("n", "buy"): "NEGATIVE",
        ("u", "click"): "CENSORED",
        ("u", "buy"): "NEGATIVE",
    }


def test_maturity_covers_window_starts_and_parents() -> None:
    assert [label_maturity(FUNNEL, name) for name in ("click", "cart", "buy")] == [3, 7, 8]
    assert [label_maturity(NESTED, name) for name in ("click", "cart", "buy")] == [3, 5, 8]
    assert label_maturity(SHORT_CHILD, "buy") == 6


@pytest.mark.parametrize("tasks", FUNNELS, ids=lambda tasks: "-".join(task.name for task in tasks))
def test_engines_agree_to_the_bit(tasks: tuple[Task, ...]) -> None:
    world = random_world(tasks, 120, seed=5)
    connection = duckdb.connect()
    impressions, events = (connection.from_arrow(frame.to_arrow()) for frame in world.frames())
    labels = label_impressions(impressions, events, tasks, 25, 2)
    mine = world.label(tasks, 25, 2)
    assert mine.columns == list(LABEL_COLUMNS)
    assert_frame_equal(labels.pl().sort("task", "impression_id"), mine)
    earlier = states_as_of(labels, 14).pl().sort("task", "impression_id")
    assert_frame_equal(earlier, states_as_of(mine.lazy(), 14).collect())
    assert state_counts(labels) == state_counts(mine.lazy())


def test_state_counts_by_hand() -> None:
    frame = pl.LazyFrame({"task": ["t", "t", "u"], "state": ["POSITIVE", "POSITIVE", "CENSORED"]})
    zero = {state.value: 0 for state in LabelState}
    assert state_counts(frame) == {"t": {**zero, "POSITIVE": 2}, "u": {**zero, "CENSORED": 1}}


def test_label_values() -> None:
    frame = nw.from_native(pl.DataFrame({"state": [state.value for state in LabelState]}))
    values = dict(frame.select("state", y=label_value(nw.col("state"))).iter_rows())
    assert values == {"POSITIVE": 1, "LATE_POSITIVE": 1, "NEGATIVE": 0, "OUT_OF_WINDOW": 0, "CENSORED": None}
    assert frame.select(y=label_value(nw.col("state"))).schema["y"] == nw.Int8


def test_real_loan_funnel(shared_data: Path, project: Path) -> None:
    """Counts of a bank's funnel, against direct comparisons of its columns."""
    tasks = load_spec(project / "specs" / "loan_funnel.yaml").tasks
    log = pl.read_parquet(shared_data / "loan_funnel.parquet")
    ts = pl.col("A_SUBMITTED").dt.timestamp("us")
    impressions = log.select(
        day=pl.col("A_SUBMITTED").dt.date(), impression_id=pl.col("case_id"), ts=ts, ingest_ts=ts
    ).lazy()
    events = []
    for task in tasks:
        for kind, columns in (("outcome", [task.label.time_column]), ("closed", task.label.closed_by)):
            at = pl.min_horizontal(columns).dt.timestamp("us")
            events.append(
                log.select(
                    impression_id="case_id", event=pl.lit(task.name), kind=pl.lit(kind), event_ts=at, ingest_ts=at
                ).drop_nulls("event_ts")
            )
    # As if the log had been read on 15 November: a month before its end.
    cut = pl.Series(["2011-11-15"]).str.to_datetime("%Y-%m-%d", time_unit="us", time_zone="UTC")[0]
    as_of = int(cut.timestamp()) * 1_000_000
    labels = label_impressions(impressions, pl.concat(events).lazy(), tasks, as_of).collect()
    found = dict(labels.filter(pl.col("task") == "approved").select("impression_id", "state").iter_rows())
    steps = {"A_PREACCEPTED": 3, "A_ACCEPTED": 14, "O_SENT_BACK": 21, "A_APPROVED": 21}
    seen = 0
    for row in log.filter(pl.col("A_SUBMITTED") <= cut).iter_rows(named=True):
        shown = row["A_SUBMITTED"]
        times = {step: row[step] for step in steps if row[step] is not None and row[step] <= cut}
        in_time = all(step in times and times[step] <= shown + timedelta(days=days) for step, days in steps.items())
        closings = [row[c] for c in ("A_DECLINED", "A_CANCELLED") if row[c] is not None and row[c] <= cut]
        if in_time:
            expected = {"POSITIVE"}
        elif shown + timedelta(days=21) > cut:
            expected = {"CENSORED"}
        elif "A_APPROVED" in times and times["A_APPROVED"] > shown + timedelta(days=21):
            expected = {"OUT_OF_WINDOW"}
        elif closings:
            expected = {"NEGATIVE"}
        else:
            expected = {"CENSORED", "NEGATIVE"}  # negative if an earlier step is
        assert found[row["case_id"]] in expected
        seen += 1
    assert seen == len(found) > 3_000
    counts = state_counts(labels.lazy())["approved"]
    assert min(counts["POSITIVE"], counts["NEGATIVE"], counts["CENSORED"], counts["OUT_OF_WINDOW"]) > 50


CHECKOUT = (
    *ADS[:1],
    Task(name="cart", parent="click", window=14 * DAY_US, window_from="click", label=Label(event="cart")),
    Task(name="checkout", parent="cart", window=DAY_US, window_from="click", label=Label(event="checkout")),
)


@pytest.mark.parametrize(
    ("second_click_known", "state"),
    [
        (2 * DAY_US, "NEGATIVE"),  # known with the checkout: inside its window from the start
        (2 * DAY_US + 1, "OUT_OF_WINDOW"),  # nothing that arrives later takes back what was known
    ],
)
def test_an_outcome_inside_any_window_is_not_out_of_window(second_click_known: int, state: str) -> None:
    """It lies after the first click's window and inside the second's, and waits for a cart that never comes."""
    events = (
        outcome("click", SHOWN),
        outcome("click", SHOWN + 20 * HOUR, arrives=SHOWN + second_click_known),
        outcome("checkout", SHOWN + 30 * HOUR, arrives=SHOWN + 2 * DAY_US),
    )
    assert label(*events, tasks=CHECKOUT)["checkout"] == state


def test_an_outcome_inside_a_later_window_settles_no_case() -> None:
    """As an outcome after its window it would decide the case; but it only waits for its parent, itself undecided."""

    def case(name: str, parent: str, window: int) -> Task:
        label = Label(time_column=f"{name}_at", closed_by=["refused_at"])
        return Task(name=name, parent=parent, window=window, window_from="click", label=label)

    tasks = (*ADS[:1], case("offer", "click", 14 * DAY_US), case("granted", "offer", DAY_US))
    clicks = outcome("click", SHOWN), outcome("click", SHOWN + 20 * HOUR)
    granted = outcome("granted", SHOWN + 30 * HOUR)
    assert label(*clicks, granted, tasks=tasks) == {"click": "POSITIVE", "offer": "CENSORED", "granted": "CENSORED"}
    beyond = outcome("granted", SHOWN + 50 * HOUR)
    assert label(*clicks, beyond, tasks=tasks)["granted"] == "OUT_OF_WINDOW"
    offer = outcome("offer", SHOWN + 21 * HOUR, arrives=SHOWN + 90 * DAY_US)
    assert label(*clicks, granted, offer, tasks=tasks)["granted"] == "LATE_POSITIVE"
