"""Labels and features must not know the future; and a leak that is planted must be found."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.features import history_for_days, join_history
from ctr_pipeline.labels import (
    join_labels,
    label_facts,
    label_impressions,
    label_maturity,
    label_table,
    labels_of,
    revisions,
)
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.features.leaks import (
    DAY,
    HOUR,
    LEAKS,
    Build,
    LeakError,
    Log,
    assert_future_invariant,
    assert_same,
)
from ctr_pipeline_tests.features.pasts import FIRST, SPEC, random_past, start

TASKS, LAG = SPEC.tasks, SPEC.split.ingest_lag


def a_log(seed: int, size: int = 220) -> Log:
    past = random_past(seed, size)
    # Some impressions arrive so late that all their outcomes are there before them.
    rows = [replace(row, ingest_ts=row.ts + 3 * DAY) if n % 4 == 0 else row for n, row in enumerate(past.rows)]
    past = replace(past, rows=rows)
    return Log(past.impressions().collect(), past.outcome_events().collect())


def on(number: int) -> int:
    """00:00 UTC of the day with that number."""
    return start(FIRST + timedelta(days=number))


MIDNIGHTS = [(a_log(seed), on(5 + seed)) for seed in range(6)]
INSTANTS = [(a_log(seed), on(5 + seed) + seed * 7 * HOUR) for seed in range(4)]


def day_of(instant: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant)).date()


def history_of(spec: Spec, backfill: int = 3) -> Build:
    """The values of the day that begins at the instant, computed together with those of some days after it.

    In a backfill the later arrivals are at hand, so that each day has to leave them out by itself.
    """

    def build(log: Log, instant: int) -> pl.DataFrame:
        day = day_of(instant)
        days = [day + timedelta(days=number) for number in range(backfill + 1)]
        history = history_for_days(spec, log.impressions.lazy(), log.events.lazy(), days).collect()
        return history.filter(pl.col("day") == day).drop("day")

    return build


def joined(log: Log, instant: int) -> pl.DataFrame:
    """All features of one impression of each key, on the day that begins at the instant."""
    day = day_of(instant)
    keys = pl.LazyFrame({"user": ["u1", "u2", "u3", None]}).join(
        pl.LazyFrame({"ad": ["a", "b", "c", None]}), how="cross"
    )
    shown = keys.with_columns(day=pl.lit(day), ts=pl.lit(on(20)))
    return join_history(SPEC, shown, history_of(SPEC)(log, instant).with_columns(day=pl.lit(day)).lazy()).collect()


def only(names: set[str]) -> Spec:
    history = [feature for feature in SPEC.features.history if feature.name in names]
    return SPEC.model_copy(update={"features": SPEC.features.model_copy(update={"history": history})})


FAMILIES = {
    kind: only({feature.name for feature in SPEC.features.history if feature.kind == kind})
    for kind in sorted({feature.kind for feature in SPEC.features.history})
}


@pytest.mark.parametrize("backfill", [0, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_feature_knows_the_future(family: str, backfill: int) -> None:
    assert_future_invariant(history_of(FAMILIES[family], backfill), MIDNIGHTS)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32), number=st.integers(5, 11))
def test_no_joined_feature_knows_the_future(seed: int, number: int) -> None:
    assert_future_invariant(joined, [(a_log(seed), on(number))])


# What a feature of impressions alone cannot get wrong.
HARMLESS = {(feature.name, "event time for arrival") for feature in SPEC.features.history if feature.task is None}


@pytest.mark.parametrize(
    ("name", "leak"),
    [(f.name, leak) for f in SPEC.features.history for leak in LEAKS if (f.name, leak) not in HARMLESS],
)
def test_a_leak_planted_in_a_feature_is_found(name: str, leak: str) -> None:
    with pytest.raises(LeakError, match="future was"):
        assert_future_invariant(LEAKS[leak](history_of(only({name}))), MIDNIGHTS)


def young(log: Log, since: int) -> Iterator[tuple[str, Log]]:
    """Logs that differ in impressions shown from ``since`` on, and in their outcomes."""
    late = pl.col("ts") >= since
    young_ids = log.impressions.filter(late)["impression_id"].implode()
    of_young = pl.col("impression_id").is_in(young_ids)
    yield "the young were deleted", Log(log.impressions.filter(~late), log.events.filter(~of_young))
    yield "the young lost their outcomes", Log(log.impressions, log.events.filter(~of_young))
    others = [
        pl.when(late).then(pl.lit(key)).otherwise(column).alias(column) for column, key in (("ad", "c"), ("user", "u3"))
    ]
    yield "the young got another key", Log(log.impressions.with_columns(others), log.events)


def early_positives(build: Build, lag: int) -> Build:
    """The classic mistake: young rows are dropped, but those with an early outcome are kept.

    Here they are moved among the mature ones.
    """

    def biased(log: Log, instant: int) -> pl.DataFrame:
        told = log.events.filter(pl.col("ingest_ts") < instant)["impression_id"].implode()
        early = pl.col("ts").is_between(instant - lag, instant) & pl.col("impression_id").is_in(told)
        moved = pl.col("impression_id").is_in(log.impressions.filter(early)["impression_id"].implode())
        back = pl.when(moved).then(lag).otherwise(0)
        shown = log.impressions.with_columns(ts=pl.col("ts") - back).with_columns(
            day=pl.from_epoch("ts", "us").dt.date()
        )
        return build(Log(shown, log.events.with_columns(event_ts=pl.col("event_ts") - back)), instant)

    return biased


@pytest.mark.parametrize("name", ["ad_rate", "ad_rate_1d", "user_buy_rate"])
def test_a_rate_is_of_mature_impressions_only(name: str) -> None:
    rate = next(feature for feature in SPEC.features.history if feature.name == name)
    lag = -(-(label_maturity(TASKS, str(rate.task)) + LAG) // DAY) * DAY
    for log, instant in MIDNIGHTS:
        assert_same(history_of(only({name})), log, instant, young(log, instant - lag))
    biased = early_positives(history_of(only({name})), lag)
    log, instant = MIDNIGHTS[0]
    with pytest.raises(LeakError, match="young"):
        assert_same(biased, log, instant, young(log, instant - lag))


# As of an instant means: including what arrives at it. So the future of labels begins a microsecond later.


def dense(log: Log, instant: int) -> pl.DataFrame:
    return label_impressions(log.impressions.lazy(), log.events.lazy(), TASKS, instant - 1, LAG).collect()


def stored(log: Log, instant: int) -> pl.DataFrame:
    return label_table(log.impressions.lazy(), log.events.lazy(), TASKS, instant - 1, LAG).collect()


def derived(log: Log, instant: int) -> pl.DataFrame:
    """Labels as of the instant, from what the lake holds ten days later."""
    shown = log.impressions.lazy()
    facts = label_facts(shown, log.events.lazy(), TASKS, instant + 10 * DAY, LAG)
    return labels_of(shown, facts, TASKS, instant - 1, LAG).collect()


def timeline(log: Log, instant: int) -> pl.DataFrame:
    shown = log.impressions.lazy()
    facts = label_facts(shown, log.events.lazy(), TASKS, instant + 10 * DAY, LAG)
    return revisions(shown, facts, TASKS, instant - 1, LAG).collect()


def as_examples(log: Log, instant: int) -> pl.DataFrame:
    shown = log.impressions.lazy()
    table = label_table(shown, log.events.lazy(), TASKS, instant + 10 * DAY, LAG)
    arrived = shown.filter(pl.col("ingest_ts") < instant).select("day", "impression_id", "ts", "ingest_ts")
    return join_labels(arrived, table, TASKS, [task.name for task in TASKS], instant - 1, LAG).collect()


LABELS = {
    "labels": dense,
    "table": stored,
    "labels of later facts": derived,
    "timeline of later facts": timeline,
    "examples of a later table": as_examples,
}


@pytest.mark.parametrize("table", LABELS)
def test_no_label_knows_the_future(table: str) -> None:
    assert_future_invariant(LABELS[table], INSTANTS)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32), since=st.integers(5 * DAY, 11 * DAY))
def test_no_label_of_a_random_world_knows_the_future(seed: int, since: int) -> None:
    assert_future_invariant(dense, [(a_log(seed), on(0) + since)])


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("table", LABELS)
def test_a_leak_planted_in_labels_is_found(table: str, leak: str) -> None:
    with pytest.raises(LeakError, match="future was"):
        assert_future_invariant(LEAKS[leak](LABELS[table]), INSTANTS)


def test_the_message_says_which_change_and_which_rows() -> None:
    def build(log: Log, instant: int) -> pl.DataFrame:
        return log.events.select(events=pl.len())

    with pytest.raises(LeakError, match=r"the future was deleted:\n(.|\n)*events"):
        assert_future_invariant(build, INSTANTS[:1])


def test_what_builds_nothing_is_no_evidence() -> None:
    with pytest.raises(AssertionError, match="nothing was built"):
        assert_future_invariant(lambda log, _: log.events.clear(), INSTANTS[:1])
