"""Labels and features must not know the future; and a leak that is planted must be found."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.features import exact_windows, history_for_days, join_history
from ctr_pipeline.labels import (
    join_labels,
    label_facts,
    label_impressions,
    label_maturity,
    label_table,
    labels_of,
    revisions,
)
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

FEATURES = {feature.name: feature for feature in SPEC.features.history}
COUNTS = {name for name, feature in FEATURES.items() if feature.kind == "count"}
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


MIDNIGHTS = [(a_log(seed), on(5 + seed)) for seed in range(4)]
INSTANTS = [(a_log(seed), on(5 + seed) + seed * 7 * HOUR) for seed in range(4)]


def is_exact(name: str) -> bool:
    return getattr(FEATURES[name], "exact", False)


def worlds_of(names: Collection[str]) -> list[tuple[Log, int]]:
    """What a day's features may know ends as it begins; what exact ones may, at the impression."""
    return INSTANTS if all(is_exact(name) for name in names) else MIDNIGHTS


def probes(instant: int) -> pl.DataFrame:
    """One impression of each pair of keys, shown and arrived at the instant."""
    keys = pl.DataFrame({"user": ["u1", "u2", "u3", None]}).join(
        pl.DataFrame({"ad": ["a", "b", "c", None]}), how="cross"
    )
    return keys.with_columns(
        impression_id=pl.format("probe {}", pl.int_range(pl.len())),
        ts=pl.lit(instant),
        ingest_ts=pl.lit(instant),
        day=pl.lit(day_of(instant)),
        price=pl.lit(1.0),
    )


def day_of(instant: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant)).date()


def values_of(names: Collection[str], backfill: int = 3) -> Build:
    """The features' values for an impression of each key at the instant, of those that have a past.

    They are computed together with those of some days after it: in a backfill the later arrivals are at hand, so that
    each day has to leave them out by itself.
    """
    history = [feature for name, feature in FEATURES.items() if name in names]
    spec = SPEC.model_copy(update={"features": SPEC.features.model_copy(update={"history": history})})

    def build(log: Log, instant: int) -> pl.DataFrame:
        asked = probes(instant)
        days = [day_of(instant) + timedelta(days=number) for number in range(backfill + 1)]
        shown = pl.concat([log.impressions, asked.select(log.impressions.columns)])
        found = history_for_days(spec, shown.lazy(), log.events.lazy(), days).collect()
        joined = join_history(spec, asked.lazy(), found.lazy()).collect()
        # A count says 0 of no past, the others nothing.
        past = [pl.col(name) > 0 if name in COUNTS else pl.col(name).is_not_null() for name in joined.columns]
        there = [is_there for name, is_there in zip(joined.columns, past, strict=True) if name not in asked.columns]
        return joined.filter(pl.any_horizontal(there))

    return build


FAMILIES: dict[str, list[str]] = {}
for feature_name, feature in FEATURES.items():
    FAMILIES.setdefault(("exact " if is_exact(feature_name) else "") + feature.kind, []).append(feature_name)


@pytest.mark.parametrize("backfill", [0, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_feature_knows_the_future(family: str, backfill: int) -> None:
    names = FAMILIES[family]
    assert_future_invariant(values_of(names, backfill), worlds_of(names))


@settings(max_examples=3)
@given(seed=st.integers(0, 2**32), number=st.integers(5, 11))
def test_no_feature_of_a_random_world_knows_the_future(seed: int, number: int) -> None:
    assert_future_invariant(values_of(FEATURES), [(a_log(seed), on(number))])


@settings(max_examples=3)
@given(seed=st.integers(0, 2**32))
def test_order_and_repeated_events_do_not_matter(seed: int) -> None:
    log = a_log(seed)
    shown, events = (
        log.impressions.sample(fraction=1, shuffle=True, seed=1),
        log.events.sample(fraction=1, shuffle=True, seed=2),
    )
    others = [("other order", Log(shown, events)), ("events twice", Log(shown, pl.concat([events, log.events])))]
    assert_same(values_of(FEATURES), log, on(9), others)
    assert_same(dense, log, on(9), others)


# What a feature of impressions alone cannot get wrong.
HARMLESS = {(name, "event time for arrival") for name, feature in FEATURES.items() if feature.task is None}


@pytest.mark.parametrize(
    ("name", "leak"),
    [(name, leak) for name in FEATURES for leak in LEAKS if (name, leak) not in HARMLESS],
)
def test_a_leak_planted_in_a_feature_is_found(name: str, leak: str) -> None:
    with pytest.raises(LeakError, match="future was"):
        assert_future_invariant(LEAKS[leak](values_of([name])), worlds_of([name]))


@pytest.mark.parametrize("name", [name for name, f in FEATURES.items() if is_exact(name) and f.kind != "sequence"])
def test_an_exact_window_that_includes_its_own_instant_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the impression itself is in it, and so is whatever else arrives at that microsecond."""
    text = exact_windows._SQL
    assert "1 PRECEDING" in text
    monkeypatch.setattr(exact_windows, "_SQL", text.replace("1 PRECEDING", "CURRENT ROW"))
    with pytest.raises(LeakError, match="future was"):
        assert_future_invariant(values_of([name]), worlds_of([name]))


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


@pytest.mark.parametrize("name", [name for name, feature in FEATURES.items() if feature.kind == "rate"])
def test_a_rate_is_of_mature_impressions_only(name: str) -> None:
    lag = label_maturity(TASKS, str(FEATURES[name].task)) + LAG
    if not is_exact(name):
        lag = -(-lag // DAY) * DAY
    for log, instant in worlds_of([name]):
        assert_same(values_of([name]), log, instant, young(log, instant - lag))
    biased = early_positives(values_of([name]), lag)
    log, instant = worlds_of([name])[0]
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
