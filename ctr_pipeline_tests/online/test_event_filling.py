"""The tables fill a store of events, beside what servers were told."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.features import join_history
from ctr_pipeline.lake import Lake
from ctr_pipeline.online.event_filling import fill_from_tables
from ctr_pipeline.online.event_sequences import exact_sequences
from ctr_pipeline.online.event_store import EventStore, exact_features
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event, Stored
from ctr_pipeline_tests.features.pasts import DAY, FIRST, SPEC, Past, Row, random_past, start


def test_a_filled_store_has_the_values_of_training(tmp_path: Path) -> None:
    past, at = random_past(6, 400), start(FIRST) + 10 * DAY
    # What is known before the request, which is the last impression of each user and ad.
    rows = [row for row in past.rows if row.ingest_ts < at]
    probes = [Row(f"p{user}{ad}", at, at, user, ad) for user in ("u1", "u2", "u3") for ad in ("a", "b", "c")]
    known = Past([*rows, *probes], [event for event in past.events if event[3] < at])
    lake = Lake(tmp_path / "lake")
    shown = known.impressions().filter(pl.col("ts") < at).sort("day").collect()
    days = sorted(set(shown["day"]))
    lake.replace_days("impressions", shown, days)
    events = known.outcome_events().with_columns(day=pl.from_epoch("ingest_ts", "us").dt.date()).collect()
    lake.replace_days("outcome_events", events, sorted(set(events["day"])))
    store = EventStore(tmp_path / "events", SPEC)
    # One of them was told before.
    first = max(rows, key=lambda row: row.ts)
    store.append([Event(IMPRESSION, first.name, first.ts, first.ingest_ts, {"user": first.user, "ad": first.ad})], at)
    assert fill_from_tables(store, lake, at).repeated >= 1
    assert fill_from_tables(store, lake, at).accepted == 0
    day = FIRST + timedelta(days=10)
    history = known.history([day]).lazy()
    asked = known.impressions().filter(pl.col("impression_id").str.starts_with("p"))
    expected = join_history(SPEC, asked, history).collect()
    for feature in exact_features(SPEC):
        found = store.values(feature, expected[feature.key].to_list(), np.full(expected.height, at))
        wanted = expected[feature.name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        assert np.nansum(wanted) > 0
    for sequence in exact_sequences(SPEC):
        for row in expected.iter_rows(named=True):
            [(items, _, instants)] = store.lists(sequence, [row[sequence.key]], [at])
            assert items == [row[item] for item in sequence.items if row[item] is not None]
            ages = [row[age] for age in sequence.ages if row[age] is not None]
            assert [(float(at) - instant) * 1e-6 for instant in instants] == ages


def test_without_tables_there_is_nothing(tmp_path: Path) -> None:
    assert fill_from_tables(EventStore(tmp_path / "e", SPEC), Lake(tmp_path / "none"), start(FIRST)) == Stored(0, 0)


@pytest.mark.parametrize("age", [0, 100])
def test_only_what_can_be_met_is_read(tmp_path: Path, age: int) -> None:
    past, lake = random_past(7, 50), Lake(tmp_path / "lake")
    shown = past.impressions().sort("day").collect()
    lake.replace_days("impressions", shown, sorted(set(shown["day"])))
    events = past.outcome_events().with_columns(day=pl.from_epoch("ingest_ts", "us").dt.date()).collect()
    lake.replace_days("outcome_events", events, sorted(set(events["day"])))
    store = EventStore(tmp_path / "e", SPEC)
    assert (fill_from_tables(store, lake, start(FIRST) + age * DAY).accepted > 0) == (age == 0)
