"""Events without an impression, and before it, are found exactly, however the impressions are cut into pieces."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import (
    QUARANTINE_SCHEMA,
    Pseudonymiser,
    find_broken_references,
    read_events,
    read_impressions,
    reference_quarantine,
    referring,
    refers,
)
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.example_counts import costly

Maker = Callable[..., Any]
START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = date(2026, 1, 5)
IDS = st.sampled_from([f"i{n}" for n in range(12)])


@pytest.fixture(scope="module")
def spec(make_spec: Maker) -> Spec:
    """Two tasks on events, one of them on a column with its time, one on a 0/1 column."""
    return make_spec(  # type: ignore[no-any-return]
        source={"events": [{"name": "actions"}, {"name": "orders", "time": "when"}]},
        tasks=[
            {"name": "click", "window": "1h", "label": {"event": "click"}},
            {"name": "sale", "window": "3d", "label": {"time_column": "sold"}},
            {"name": "liked", "window": "0s", "label": {"column": "liked"}},
        ],
    )


def events_of(rows: list[tuple[str, str, str, int]]) -> pl.DataFrame:
    schema = {"impression_id": pl.String, "event": pl.String, "kind": pl.String, "event_ts": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        day=pl.lit(DAY), ingest_ts="event_ts", source_file=pl.lit("a.csv"), source_row=pl.int_range(pl.len())
    )


def pieces_of(shown: dict[str, int], count: int) -> list[pl.LazyFrame]:
    rows = list(shown.items())
    schema = {"impression_id": pl.String, "ts": pl.Int64}
    return [pl.LazyFrame(rows[n::count], schema=schema, orient="row") for n in range(count)]


@settings(max_examples=costly(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            IDS,
            st.sampled_from(["click", "sale", "liked"]),
            st.sampled_from(["outcome", "closed", "unknown"]),
            st.integers(0, 9),
        ),
        max_size=20,
    ),
    shown=st.dictionaries(IDS, st.integers(0, 9), max_size=10),
    count=st.integers(1, 4),
    early=st.integers(0, 3),
)
def test_every_broken_reference_is_found_and_no_other(
    spec: Spec, rows: list[tuple[str, str, str, int]], shown: dict[str, int], count: int, early: int
) -> None:
    expected = [
        (row, "orphan_event" if identity not in shown else "event_before_impression")
        for row, (identity, event, kind, at) in enumerate(rows)
        if event != "liked" and kind != "unknown" and (identity not in shown or at < shown[identity] - early)
    ]
    events = referring(spec, events_of(rows).lazy()).collect()
    found = find_broken_references(events, pieces_of(shown, count), early)
    assert found.select("source_row", "reason").rows() == expected


def test_no_piece_is_read_once_all_is_known(spec: Spec) -> None:
    def pieces() -> Iterator[pl.LazyFrame]:
        yield from pieces_of({"i1": 5}, 1)
        raise AssertionError("a second piece was asked for")

    found = find_broken_references(events_of([("i1", "click", "outcome", 4)]), pieces())
    assert found["reason"].to_list() == ["event_before_impression"]


def test_the_quarantine_names_the_place_and_shows_no_id(spec: Spec) -> None:
    events = events_of([("i1", "click", "outcome", 4), ("i2", "sale", "closed", 4), ("i3", "sale", "outcome", 4)])
    rows = reference_quarantine(spec, find_broken_references(events, pieces_of({"i1": 5, "i3": 5}, 1)))
    assert rows.schema == QUARANTINE_SCHEMA
    assert rows.drop("rule").rows() == [
        (DAY, "outcome_events", "event_before_impression", None, "a.csv", 0, None),  # two logs, two names of the time
        (DAY, "outcome_events", "orphan_event", "id", "a.csv", 1, None),
        (DAY, "outcome_events", "event_before_impression", "sold", "a.csv", 2, None),
    ]
    assert "before the log's first day" in rows["rule"][1]


def test_labels_within_the_impression_have_nothing_to_refer_to(make_spec: Maker, spec: Spec) -> None:
    assert refers(spec)
    plain = make_spec()
    assert not refers(plain)
    assert referring(plain, events_of([("i1", "click", "outcome", 4)]).lazy()).collect().is_empty()
    assert find_broken_references(events_of([]), []).is_empty()


def test_events_can_be_traced_to_their_lines(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path
) -> None:
    """From raw logs: one known event, one orphan, one too early."""
    spec = make_spec(
        source={"events": [{"name": "actions"}]},
        tasks=[{"name": "click", "window": "1d", "label": {"event": "click"}}],
    )
    hours = [START + timedelta(hours=n) for n in range(4)]
    actions = tmp_path / "actions.ndjson"
    pl.DataFrame(
        {"impression_id": ["imp-1", "nobody", "imp-3"], "event_type": "click", "event_ts": hours[2::-1]}
    ).with_columns(pl.col("event_ts").dt.to_string("iso:strict")).write_ndjson(actions)
    shown = read_impressions(spec, [write(make_log(rows=4, at=hours))], DAY, DAY, pseudonymiser, DAY).kept
    kept = read_events(spec, [], {"actions": [actions]}, DAY, DAY, pseudonymiser, DAY).kept
    found = reference_quarantine(spec, find_broken_references(kept, [shown.lazy()]))
    assert found.select("source_file", "source_row", "column", "reason").rows() == [
        ("actions.ndjson", 1, "impression_id", "orphan_event"),
        ("actions.ndjson", 2, "event_ts", "event_before_impression"),
    ]
