"""The labels of 10^5 random worlds, against a replay of time in plain Python."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl
import pytest

from ctr_pipeline.labels import label_facts, label_impressions, labels_of
from ctr_pipeline.spec.tasks import Task
from ctr_pipeline_tests.labels.naive import (
    DAY,
    FUNNELS,
    HOUR,
    MINUTE,
    Answer,
    Event,
    World,
    answers_as_of,
    maturities,
    random_instants,
    random_world,
    replay,
)

LAGS = (0, 1, 6 * HOUR)
WORLDS = 4_800  # a funnel and lag: 7 x 3 x 4 800 > 10^5
MONDAY = 1_767_571_200_000_000  # 2026-01-05
TIMES = pl.Int64


@dataclass(frozen=True)
class Look:
    """A world, seen at an instant (microseconds since its impression)."""

    world: World
    instant: int


def frames(looks: Sequence[Look], as_of: int) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Impressions and events of all looks, each world shifted so that its instant is ``as_of``."""
    shown = {number: as_of - look.instant for number, look in enumerate(looks)}
    impressions = pl.DataFrame(
        [(f"{number}", ts, ts + looks[number].world.arrived) for number, ts in shown.items()],
        schema={"impression_id": pl.String, "ts": TIMES, "ingest_ts": TIMES},
        orient="row",
    ).with_columns(day=pl.from_epoch("ts", "us").dt.date())
    rows = [
        (f"{number}", event.task, event.kind, ts + event.at, ts + event.arrived)
        for number, ts in shown.items()
        for event in looks[number].world.events
    ]
    # Some of the events once more, of impressions that are not there.
    rows += [(f"orphan {name}", *rest) for name, *rest in rows[::50]]
    schema = {"impression_id": pl.String, "event": pl.String, "kind": pl.String, "event_ts": TIMES, "ingest_ts": TIMES}
    return impressions.lazy(), pl.DataFrame(rows, schema=schema, orient="row").lazy()


def comparable(labels: pl.LazyFrame, as_of: int) -> pl.DataFrame:
    """``labels`` with times that count from the impression, as the oracle's do."""
    found = labels.collect()
    assert (found["as_of"] == as_of).all()
    assert (found["day"] == pl.select(pl.from_epoch(found["ts"], "us").dt.date()).to_series()).all()
    censored = pl.col("state") == "CENSORED"
    return found.select(
        pl.col("impression_id").cast(TIMES).alias("look"),
        "task",
        "state",
        *(pl.col(name) - pl.col("ts") for name in Answer._fields if name.endswith("_ts")),
        pl.col("revision").cast(TIMES),
        elapsed_is_right=pl.col("elapsed").eq_missing(pl.when(censored).then(as_of - pl.col("ts"))),
    )


def labelled(tasks: Sequence[Task], looks: Sequence[Look], as_of: int, lag: int, early: int = 0) -> pl.DataFrame:
    """Labels of all looks, by one call."""
    return comparable(label_impressions(*frames(looks, as_of), tasks, as_of, lag, early), as_of)


def oracle_of(answers: Sequence[dict[str, Answer]]) -> pl.DataFrame:
    rows = [(number, name, *answer) for number, own in enumerate(answers) for name, answer in own.items()]
    schema = {"look": TIMES, "task": pl.String, "state": pl.String}
    return pl.DataFrame(rows, schema={**schema, **dict.fromkeys(Answer._fields[1:], TIMES)}, orient="row")


def differences(found: pl.DataFrame, expected: pl.DataFrame) -> pl.DataFrame:
    """Rows that only one of them has, or of which they say different things."""
    both = found.join(expected, on=["look", "task"], how="full", coalesce=True, suffix="_expected")
    same = (pl.col(name).eq_missing(pl.col(f"{name}_expected")) for name in Answer._fields)
    return both.filter(~pl.all_horizontal("elapsed_is_right", *same)).sort("look", "task")


def compare(tasks: Sequence[Task], looks: Sequence[Look], as_of: int, lag: int) -> pl.DataFrame:
    matures = maturities(tasks, lag)
    answers = [answers_as_of(replay(tasks, look.world, matures), look.instant) for look in looks]
    return differences(labelled(tasks, looks, as_of, lag), oracle_of(answers))


def minimal(tasks: Sequence[Task], look: Look, as_of: int, lag: int) -> Look:
    """``look`` with as few events as still show a difference."""
    for event in look.world.events:
        rest = list(look.world.events)
        rest.remove(event)
        smaller = replace(look, world=replace(look.world, events=tuple(rest)))
        if compare(tasks, [smaller], as_of, lag).height:
            return minimal(tasks, smaller, as_of, lag)
    return look


def some_looks(seed: int, tasks: Sequence[Task], lag: int, size: int) -> tuple[list[Look], list[dict[str, Answer]]]:
    pick, matures = random.Random(seed), maturities(tasks, lag)
    looks, answers = [], []
    for _ in range(size):
        world = random_world(pick, tasks, matures)
        story = replay(tasks, world, matures)
        for instant in random_instants(pick, tasks, world, matures):
            looks.append(Look(world, instant))
            answers.append(answers_as_of(story, instant))
    return looks, answers


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("funnel", FUNNELS)
def test_labels_equal_those_of_a_replay(funnel: str, lag: int) -> None:
    tasks = FUNNELS[funnel]
    as_of = MONDAY + (0 if lag else 7 * HOUR + 123_457)
    looks, answers = some_looks(len(funnel) + lag, tasks, lag, WORLDS)
    expected = oracle_of(answers)
    # Worlds that were all alike would prove little.
    reached = expected.group_by("task", "state").len()
    assert reached.height == 5 * len(tasks)
    assert reached["len"].min() >= 20
    assert 0.05 < sum(not own for own in answers) / len(answers) < 0.5
    different = differences(labelled(tasks, looks, as_of, lag), expected)
    if different.height:
        first = minimal(tasks, looks[different["look"][0]], as_of, lag)
        smallest = compare(tasks, [first], as_of, lag).rows(named=True)
        pytest.fail(f"{different.height} differences; the first, made smaller: {first}\n{smallest}")


@pytest.mark.parametrize("early", [1, MINUTE, 6 * HOUR, DAY])
@pytest.mark.parametrize("funnel", FUNNELS)
def test_events_before_their_impression_count_within_the_tolerance(funnel: str, early: int) -> None:
    tasks, lag = FUNNELS[funnel], LAGS[-1]
    pick, matures = random.Random(early), maturities(FUNNELS[funnel], lag)
    looks, strict, lenient = [], [], []
    for _ in range(300):
        world = random_world(pick, tasks, matures)
        # On both sides of the tolerance, and at it.
        beside = [-early - 1, -early, -early + 1, -1, 0]
        events = tuple(
            e._replace(at=pick.choice(beside)) if e.kind != "unknown" and pick.random() < 0.3 else e
            for e in world.events
        )
        world = replace(world, events=events)
        for instant in random_instants(pick, tasks, world, matures):
            looks.append(Look(world, instant))
            strict.append(answers_as_of(replay(tasks, world, matures), instant))
            lenient.append(answers_as_of(replay(tasks, world, matures, early), instant))
    assert differences(labelled(tasks, looks, MONDAY, lag, early), oracle_of(lenient)).is_empty()
    assert differences(labelled(tasks, looks, MONDAY, lag), oracle_of(strict)).is_empty()
    assert strict != lenient


@pytest.mark.parametrize("funnel", FUNNELS)
def test_labels_of_an_earlier_instant_follow_from_later_facts(funnel: str) -> None:
    """What the lake stores was found later; the labels of the instant must not show it."""
    tasks, lag = FUNNELS[funnel], LAGS[-1]
    looks, answers = some_looks(7, tasks, lag, 1000)
    shown, events = frames(looks, MONDAY)
    for later in (1, DAY, 200 * DAY):
        facts = label_facts(shown, events, tasks, MONDAY + later, lag)
        found = comparable(labels_of(shown, facts, tasks, MONDAY, lag), MONDAY)
        assert differences(found, oracle_of(answers)).is_empty()


def test_the_oracle_says_what_the_definitions_say() -> None:
    """By hand: a click known late, a cart that waits for it, a checkout after its window."""
    world = World(
        arrived=0,
        events=(
            Event("click", "outcome", HOUR, DAY + 1),
            Event("cart", "outcome", 2 * HOUR, 2 * HOUR),
            Event("checkout", "outcome", HOUR + 14 * DAY + 1, 20 * DAY),
        ),
    )
    story = replay(FUNNELS["shop"], world, maturities(FUNNELS["shop"], 0))
    states = {instant: {name: answer.state for name, answer in answers.items()} for instant, answers in story}
    assert states[DAY] == {"click": "NEGATIVE", "cart": "CENSORED", "checkout": "CENSORED"}
    assert states[DAY + 1] == {"click": "LATE_POSITIVE", "cart": "POSITIVE", "checkout": "CENSORED"}
    assert states[15 * DAY] == {"click": "LATE_POSITIVE", "cart": "POSITIVE", "checkout": "NEGATIVE"}
    assert states[20 * DAY] == {"click": "LATE_POSITIVE", "cart": "POSITIVE", "checkout": "OUT_OF_WINDOW"}
    last = answers_as_of(story, 30 * DAY)
    assert last["click"] == Answer("LATE_POSITIVE", DAY + 1, HOUR, DAY, None, None, 1, DAY)
    assert last["cart"] == Answer("POSITIVE", DAY + 1, 2 * HOUR, None, None, None, 0, 15 * DAY)
    missed = HOUR + 14 * DAY + 1, 20 * DAY
    assert last["checkout"] == Answer("OUT_OF_WINDOW", None, None, 15 * DAY, *missed, 0, 15 * DAY)


@pytest.mark.parametrize("funnel", FUNNELS)
@pytest.mark.parametrize(("wrong", "seen_in"), [("window", "known_ts"), ("lag", "state"), ("as_of", "state")])
def test_a_microsecond_is_a_difference(funnel: str, wrong: str, seen_in: str) -> None:
    """The comparison is worth something only if the worlds reach every edge, of every task."""
    tasks, lag, as_of = FUNNELS[funnel], LAGS[-1], MONDAY
    looks, answers = some_looks(3, tasks, lag, 400)
    more = {"window": 0, "lag": 0, "as_of": 0, wrong: 1}
    longer = [own.model_copy(update={"window": own.window + more["window"]}) for own in tasks]
    as_of += more["as_of"]
    labels = label_impressions(*frames(looks, MONDAY), longer, as_of, lag + more["lag"])
    different = differences(comparable(labels, as_of), oracle_of(answers))
    seen = different.filter(pl.col(seen_in).ne_missing(pl.col(f"{seen_in}_expected")))
    assert set(seen["task"]) == {own.name for own in tasks}
