"""Rows that stand for several impressions become as many, with the outcomes that they count."""

from collections.abc import Callable
from datetime import date
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, ReadResult, SourceError, read_events, read_impressions, shows
from ctr_pipeline_tests.example_counts import costly

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]

DAY = date(2026, 1, 5)
IMPRESSION = {"id": "id", "time": "at", "shows": "shown"}
TASKS = [
    {"name": "click", "window": "0s", "label": {"column": "clicks"}},
    {"name": "order", "parent": "click", "window": "0s", "label": {"column": "orders"}},
    {"name": "like", "window": "0s", "label": {"column": "likes"}},
]
FORMATS = ["log.csv", "log.ndjson", "log.parquet"]


def log_of(make_log: Maker, rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    """A log with these numbers of shows, clicks, orders and likes; each row has an item of its own."""
    names = ("shown", "clicks", "orders", "likes")
    counts = {
        name: pl.Series(column, strict=False) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    count = len(rows)
    made: pl.DataFrame = make_log(rows=count, item=[f"row-{n}" for n in range(count)], price=[1.0] * count, **counts)
    return made.with_columns(at=pl.lit("2026-01-05T10:00:00Z"))


def both(spec: Any, path: Any, pseudonymiser: Pseudonymiser) -> tuple[ReadResult, ReadResult]:
    shown = read_impressions(spec, [path], DAY, DAY, pseudonymiser, DAY)
    return shown, read_events(spec, [path], {}, DAY, DAY, pseudonymiser, DAY)


def counted(shown: ReadResult, events: ReadResult) -> dict[str, tuple[int, ...]]:
    """By row: impressions, those with each outcome, those of which each is not known, and orders of clicked ones."""
    names = [task["name"] for task in TASKS]
    by_id: dict[tuple[str, str], set[str]] = {}
    for ident, event, kind in events.kept.select("impression_id", "event", "kind").iter_rows():
        by_id.setdefault((str(event), str(kind)), set()).add(str(ident))
    found = {}
    for (item,), rows in shown.kept.partition_by("item", as_dict=True).items():
        ids = set(rows["impression_id"])
        having = {key: ids & by_id.get(key, set()) for key in [(n, k) for n in names for k in ("outcome", "unknown")]}
        nested = having["order", "outcome"] - having["click", "outcome"]
        found[str(item)] = (rows.height, *(len(having[key]) for key in having), len(nested))
    return found


COUNTS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.just(n), st.none() | st.integers(0, n), st.none() | st.integers(0, n), st.none() | st.integers(0, n)
    )
)


@settings(max_examples=costly(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(COUNTS, min_size=1, max_size=6), name=st.sampled_from(FORMATS), anonymous=st.booleans())
def test_a_row_becomes_the_impressions_that_it_counts(
    make_spec: Maker,
    make_log: Maker,
    pseudonymiser: Pseudonymiser,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[Any, ...]],
    name: str,
    anonymous: bool,
) -> None:
    log = log_of(make_log, rows)
    path = tmp_path_factory.mktemp("log") / name
    {"log.parquet": log.write_parquet, "log.ndjson": log.write_ndjson, "log.csv": log.write_csv}[name](path)
    spec = make_spec(impression=IMPRESSION | ({"id": None} if anonymous else {}), tasks=TASKS)
    shown, events = both(spec, path, pseudonymiser)
    expected = {}
    for place, (n, clicks, orders, likes) in enumerate(rows):
        if clicks is None or orders is None or orders <= clicks:
            parts = [(0, n) if count is None else (count, 0) for count in (clicks, orders, likes)]
            nested = (orders or 0) if clicks is None else 0
            expected[f"row-{place}"] = (n, *(count for part in parts for count in part), nested)
    assert counted(shown, events) == expected
    assert shown.quarantined["reason"].to_list() == ["bad_count"] * (len(rows) - len(expected))
    assert shown.rows_in == len(rows)
    assert shown.rows_in + shown.added == shown.kept.height + shown.quarantined.height
    assert shown.added_by_day == ({DAY: shown.added} if shown.added else {})
    assert shown.kept["impression_id"].n_unique() == shown.kept.height
    assert events.rows_in == events.kept.height + events.quarantined.height + events.ignored
    again = both(spec, path, pseudonymiser)
    assert again[0].kept.equals(shown.kept)
    assert again[1].kept.equals(events.kept)


BROKEN: dict[str, tuple[tuple[Any, ...], str, str, Any]] = {
    "no number of shows": ((None, 0, 0, 0), "bad_shows", "shown", None),
    "no show": ((0, 0, 0, 0), "bad_shows", "shown", "0"),
    "half a show": ((1.5, 1, 0, 0), "bad_shows", "shown", "1.5"),
    "a word": (("many", 1, 0, 0), "bad_shows", "shown", "many"),
    "endless shows": ((float("inf"), 1, 0, 0), "bad_shows", "shown", "inf"),
    "more clicks than shows": ((3, 4, 0, 0), "bad_count", "clicks", "4"),
    "fewer than no clicks": ((3, -1, 0, 0), "bad_count", "clicks", "-1"),
    "half a click": ((3, 0.5, 0, 0), "bad_count", "clicks", "0.5"),
    "more orders than clicks": ((3, 1, 2, 0), "bad_count", "orders", "2"),
    "more likes than shows": ((3, 1, 1, 9), "bad_count", "likes", "9"),
}


@pytest.mark.parametrize(("row", "reason", "column", "value"), BROKEN.values(), ids=BROKEN)
def test_counts_that_contradict_each_other(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    pseudonymiser: Pseudonymiser,
    row: tuple[Any, ...],
    reason: str,
    column: str,
    value: Any,
) -> None:
    texts = [tuple(None if part is None else str(part) for part in line) for line in ((2, 1, 1, 0), row)]
    shown, events = both(
        make_spec(impression=IMPRESSION, tasks=TASKS), write(log_of(make_log, texts), "log.csv"), pseudonymiser
    )
    assert shown.quarantined.select("reason", "column", "value", "source_row").rows() == [(reason, column, value, 1)]
    assert counted(shown, events) == {"row-0": (2, 1, 0, 1, 0, 0, 0, 0)}
    assert events.rows_in == events.kept.height + events.quarantined.height + events.ignored


def test_a_row_that_arrives_again_is_one_repetition(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    log = log_of(make_log, [(2, 1, 1, 0), (5, 4, 4, 4), (3, 0, 0, 0)])
    log = log.with_columns(id=pl.Series(["a", "a", "b"]))
    spec = make_spec(impression=IMPRESSION, tasks=TASKS)
    path = write(log)
    shown, events = both(spec, path, pseudonymiser)
    assert counted(shown, events) == {"row-0": (2, 1, 0, 1, 0, 0, 0, 0), "row-2": (3, 0, 0, 0, 0, 0, 0, 0)}
    assert shown.quarantined["reason"].to_list() == ["duplicate_id"]
    stored = shown.kept.with_columns(pl.col("ts", "ingest_ts") - 1).lazy()
    later = read_impressions(spec, [path], DAY, DAY, pseudonymiser, DAY, known=stored)
    assert later.quarantined.height == 3


def test_too_many_impressions(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shows, "MOST_IMPRESSIONS", 9)
    spec, path = make_spec(impression=IMPRESSION, tasks=TASKS), write(log_of(make_log, [(2, 1, 1, 0), (7, 1, 1, 0)]))
    assert both(spec, path, pseudonymiser)[0].kept.height == 9
    more = write(log_of(make_log, [(2, 1, 1, 0), (8, 1, 1, 0)]), "more.parquet")
    with pytest.raises(SourceError, match=r"2 rows stand for 10 impressions, and at most 9 .*divide all counts"):
        both(spec, more, pseudonymiser)


def test_one_show_a_row_is_a_log_without_counts(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    path = write(log_of(make_log, [(1, 1, 1, 0), (1, 0, 0, 1), (1, 0, None, 0)]))
    counts = both(make_spec(impression=IMPRESSION, tasks=TASKS), path, pseudonymiser)
    plain = both(make_spec(impression={"id": "id", "time": "at"}, tasks=TASKS), path, pseudonymiser)
    for with_counts, without in zip(counts, plain, strict=True):
        assert with_counts.kept.equals(without.kept)
