"""What the store finds is what training joins; snapshots come and go as a whole."""

import json
import math
import os
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.features import gather_lists, history_for_days, join_history
from ctr_pipeline.features.history_definition import history_definition
from ctr_pipeline.online import snapshot_index
from ctr_pipeline.online.feature_store import FeatureStore
from ctr_pipeline.online.opened_snapshot import Snapshot
from ctr_pipeline.online.snapshot_index import INDEX, KEPT, StoreError, listed
from ctr_pipeline.online.snapshot_writing import make_snapshot
from ctr_pipeline.online.store_layout import list_inputs
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.features.pasts import DAY, EXACT, FIRST, SPEC, SPEC_TEXT, random_past, start

PAST = random_past(3, 500)
DAYS = [FIRST + timedelta(days=n) for n in range(5, 12)]


@pytest.fixture(scope="module")
def history() -> pl.DataFrame:
    return PAST.history(DAYS)


@pytest.fixture(scope="module")
def root(history: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    for version, day in enumerate(DAYS):
        make_snapshot(folder, SPEC, day, history.filter(pl.col("day") == day), version)
    return folder


def plain(value: object) -> object:
    """NaN and None are both missing; a list of nothing is a missing list."""
    if isinstance(value, list):
        return [plain(part) for part in value] or None
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value


def joined(history: pl.DataFrame, days: list[date] = DAYS) -> pl.DataFrame:
    shown = PAST.impressions().filter(pl.col("day").is_in(days))
    rows = join_history(SPEC, shown, history.lazy())
    ages = [f.ages for f in SPEC.features.event_lists]
    rows = rows.with_columns(recent_age=pl.concat_list(ages[0]))
    return gather_lists(SPEC, rows).sort("impression_id").collect()


def test_every_value_is_the_one_that_training_joins(history: pl.DataFrame, root: Path) -> None:
    expected, store = joined(history), FeatureStore(root, SPEC)
    times = expected["ts"].to_numpy()
    for key, groups in store.inputs.items():
        names = [name for group in groups for name in group]
        found = store.look_up(key, expected[key].to_list(), times.tolist(), names)
        assert set(found.columns) == set(names)
        assert found.late == 0
        for name, values in found.columns.items():
            wanted = expected[name].to_list()
            if name == "recent_age":
                # Ages stand beside items; training fills up what is after the last one.
                wanted = [ages[: len(of or [])] for ages, of in zip(wanted, expected["recent"].to_list(), strict=True)]
            assert [plain(value) for value in values] == [plain(value) for value in wanted], name
    named = {name for groups in store.inputs.values() for group in groups for name in group}
    exact = {*EXACT, *(name for f in SPEC.features.sequences if f.exact for name in (*list_inputs(f), *f.ages))}
    made = {made.feature.name for made in SPEC.features.history_embedded} | {"recent_age"}
    numbers = {name for name, f in SPEC.features.history_numbers if f not in SPEC.features.event_lists}
    assert named == (made | numbers) - exact
    assert expected["seen"].sum() > 100


def test_a_key_without_a_past_has_counts_of_0_and_a_missing_key_nothing(root: Path) -> None:
    store, now = FeatureStore(root, SPEC), np.array([start(DAYS[0])] * 3)
    long = "u" * 5000
    found = store.look_up("user", ["nobody", None, long], now.tolist(), ["seen", "last_seen", "ads_top", "recent"])
    assert found.unknown == 2
    assert [plain(value) for value in found.columns["seen"]] == [0.0, None, 0.0]
    assert all(plain(value) is None for name in ("last_seen", "ads_top", "recent") for value in found.columns[name])


def test_keys_of_any_length_are_found(tmp_path: Path) -> None:
    keys = ["é" * n for n in (1, 99, 100, 101, 199, 200, 201, 3000)] + ["z" * 400, "z" * 401, "z" * 100, "z" * 101]
    rows = pl.DataFrame({"feature": "seen", "key": keys, "value": [float(n) for n in range(1, len(keys) + 1)]})
    make_snapshot(tmp_path, SPEC, DAYS[0], rows.with_columns(item=pl.lit(None, dtype=pl.String)))
    found = FeatureStore(tmp_path, SPEC).look_up("user", keys, [start(DAYS[0])] * len(keys), ["seen"])
    assert found.columns["seen"] == rows["value"].to_list()


def test_a_day_without_a_snapshot_has_that_of_the_day_before_and_never_a_later_one(
    history: pl.DataFrame, tmp_path: Path
) -> None:
    store, name = FeatureStore(tmp_path, SPEC), ["seen"]
    noon = np.array([start(DAYS[2]) + DAY // 2])
    assert store.state(int(noon[0])).ready is False
    assert store.look_up("user", ["u1"], noon.tolist(), name).columns == {"seen": [0.0]}
    for day in (DAYS[3], DAYS[1]):
        make_snapshot(tmp_path, SPEC, day, history.filter(pl.col("day") == day))
    state, found = store.state(int(noon[0])), store.look_up("user", ["u1"], noon.tolist(), name)
    assert (state.day, state.late, state.problem, found.late) == (DAYS[1].isoformat(), True, None, 1)
    own = history.filter(pl.col("day") == DAYS[1], pl.col("feature") == "seen", pl.col("key") == "u1")["value"]
    assert found.columns == {"seen": own.to_list()}
    before = store.look_up("user", ["u1", None], [start(DAYS[0])] * 2, name)
    assert (before.columns["seen"][0], before.unknown, before.late) == (0.0, 1, 2)


def test_rows_of_several_days_have_their_own_snapshots(history: pl.DataFrame, root: Path) -> None:
    store = FeatureStore(root, SPEC)
    times = np.array([start(DAYS[4]), start(DAYS[1]) + 5, start(DAYS[4]) + 7])
    found = store.look_up("user", ["u1", "u2", "u3"], times.tolist(), ["seen", "last_seen"])
    for at, (time, user) in enumerate(zip(times, ["u1", "u2", "u3"], strict=True)):
        alone = store.look_up("user", [user], times[at : at + 1].tolist(), ["seen", "last_seen"])
        assert {name: values[at] for name, values in found.columns.items()} == {
            name: values[0] for name, values in alone.columns.items()
        }, time


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hours=st.lists(st.integers(-24 * 400, 24 * 400), min_size=1, max_size=12))
def test_rows_of_any_days_are_found_as_each_is_alone(root: Path, hours: list[int]) -> None:
    store, names = FeatureStore(root, SPEC), ["seen", "last_seen"]
    times = [start(DAYS[1]) + hour * DAY // 24 for hour in hours]
    texts = [f"u{at % 4}" for at in range(len(times))]
    found = store.look_up("user", texts, times, names)
    alone = [store.look_up("user", [text], [time], names) for text, time in zip(texts, times, strict=True)]
    for name in names:
        assert [plain(v) for v in found.columns[name]] == [plain(one.columns[name][0]) for one in alone]
    assert (found.late, found.unknown) == (sum(one.late for one in alone), sum(one.unknown for one in alone))
    assert set(found.snapshots) == {name for one in alone for name in one.snapshots}


def test_rows_of_thousands_of_days_take_no_more_look_ups_than_there_are_snapshots(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, asked = FeatureStore(root, SPEC), []
    numbers = Snapshot.numbers
    monkeypatch.setattr(Snapshot, "numbers", lambda *given: asked.append(1) or numbers(*given))
    times = [start(DAYS[0]) + at * DAY for at in range(-2000, 2000)]
    found = store.look_up("user", ["u1"] * len(times), times, ["seen"])
    assert len(found.columns["seen"]) == len(times)
    assert found.late == len(times) - len(listed(root))
    assert 1 < len(asked) <= len(listed(root))


def test_the_same_values_are_the_same_snapshot_and_other_values_another(history: pl.DataFrame, tmp_path: Path) -> None:
    rows = history.filter(pl.col("day") == DAYS[0])
    first = make_snapshot(tmp_path, SPEC, DAYS[0], rows)
    again = make_snapshot(tmp_path, SPEC, DAYS[0], rows.sample(fraction=1, shuffle=True, seed=1))
    assert first == again
    assert [one.id for one in listed(tmp_path)] == [first.id]
    other = make_snapshot(tmp_path, SPEC, DAYS[0], rows.with_columns(pl.col("value") * 2))
    assert other.id != first.id
    assert {path.name for path in tmp_path.iterdir()} == {INDEX, other.id}


def test_those_of_the_last_days_are_kept_and_the_one_just_made(history: pl.DataFrame, tmp_path: Path) -> None:
    days = [FIRST + timedelta(days=n) for n in range(KEPT + 3)]
    rows = history.filter(pl.col("day") == DAYS[0])
    for day in days[1:]:
        make_snapshot(tmp_path, SPEC, day, rows)
    assert [one.day for one in listed(tmp_path)] == days[3:]
    make_snapshot(tmp_path, SPEC, days[0], rows)
    assert [one.day for one in listed(tmp_path)] == [*days[3:], days[0]]
    made = make_snapshot(tmp_path, SPEC, days[2], rows)
    assert [one.day for one in listed(tmp_path)] == [*days[3:], made.day]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == KEPT + 1


def test_an_open_store_takes_the_new_snapshot_while_a_reader_keeps_the_old(
    history: pl.DataFrame, tmp_path: Path
) -> None:
    rows, now = history.filter(pl.col("day") == DAYS[0]), np.array([start(DAYS[0])])
    make_snapshot(tmp_path, SPEC, DAYS[0], rows)
    store = FeatureStore(tmp_path, SPEC)
    before = store.look_up("user", ["u1"], now.tolist(), ["seen"]).columns["seen"]
    held = store._of_day((DAYS[0] - date(1970, 1, 1)).days)
    make_snapshot(tmp_path, SPEC, DAYS[0], rows.with_columns(pl.col("value") + 1))
    assert store.look_up("user", ["u1"], now.tolist(), ["seen"]).columns["seen"] == before
    store.refresh()
    assert store.look_up("user", ["u1"], now.tolist(), ["seen"]).columns["seen"] == [before[0] + 1]
    assert held is not None
    values, _ = held.numbers(next(one for one in store.layout.keys if one.key == "user"), ["u1"])
    assert before in values


def test_a_writer_that_is_stopped_leaves_the_store_as_it_was(
    history: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = history.filter(pl.col("day") == DAYS[0])
    made = make_snapshot(tmp_path, SPEC, DAYS[0], rows)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            make_snapshot(tmp_path, SPEC, DAYS[1], rows)
    assert listed(tmp_path) == (made,)
    # A writer that was killed leaves its folder, which the next one removes.
    (tmp_path / ".partial.1").mkdir()
    (tmp_path / ".partial.1" / "data.mdb").write_bytes(b"half")
    later = make_snapshot(tmp_path, SPEC, DAYS[1], rows)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {made.id, later.id}


def test_snapshots_of_other_features_are_not_used(history: pl.DataFrame, tmp_path: Path) -> None:
    make_snapshot(tmp_path, SPEC, DAYS[0], history.filter(pl.col("day") == DAYS[0]))
    other = parse_spec(SPEC_TEXT.replace("name: seen, kind: count, key: user, days: 4", "name: seen, kind: count, key: user, days: 3"), "t")  # fmt: skip
    state = FeatureStore(tmp_path, other).state(start(DAYS[0]))
    assert state.ready is False
    assert "other history features" in str(state.problem)


def test_what_the_definition_covers() -> None:
    def changed(old: str, new: str) -> bool:
        assert old in SPEC_TEXT
        return history_definition(parse_spec(SPEC_TEXT.replace(old, new), "t")) != history_definition(SPEC)

    assert changed("smoothing: 0", "smoothing: 1")
    assert changed("window: 20h", "window: 21h")
    assert changed("ingest_lag: 3h", "ingest_lag: 4h")
    assert changed("user: u", "user: w")
    assert changed("{name: ad}", "{name: ad, column: ad_id}")
    assert not changed("{name: price}", "{name: prices}")
    assert not changed("{name: ad}", "{name: ad, min_count: 9}")
    assert not changed("name: seen, kind: count", "name: seen, encoding: {kind: standard}, kind: count")


def test_a_broken_list_or_file_is_said_and_what_was_open_stays(history: pl.DataFrame, tmp_path: Path) -> None:
    rows, now = history.filter(pl.col("day") == DAYS[0]), start(DAYS[0])
    made = make_snapshot(tmp_path, SPEC, DAYS[0], rows)
    store = FeatureStore(tmp_path, SPEC)
    assert store.state(now).snapshot == made.id
    (tmp_path / INDEX).write_text("{", encoding="utf-8")
    assert (store.state(now).snapshot, "not a list of snapshots" in str(store.state(now).problem)) == (made.id, True)
    with pytest.raises(StoreError, match="not a list of snapshots"):
        listed(tmp_path)
    content = {"format": 9, "snapshots": []}
    (tmp_path / INDEX).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(StoreError, match=f"reads format {snapshot_index.FORMAT}"):
        listed(tmp_path)
    (tmp_path / made.id / "data.mdb").unlink()
    (tmp_path / INDEX).unlink()
    make_snapshot(tmp_path, SPEC, DAYS[1], rows)
    assert store.state(start(DAYS[1])).late is False


def test_the_values_of_the_day_after_the_last_are_those_that_the_table_will_have() -> None:
    day = DAYS[3]
    known = PAST.impressions().filter(pl.col("ingest_ts") < start(day)), PAST.outcome_events().filter(pl.col("ingest_ts") < start(day))  # fmt: skip
    before = history_for_days(SPEC, *known, [day]).collect().sort("feature", "key")
    later = PAST.history([day]).filter(~pl.col("feature").is_in(EXACT))
    assert before.equals(later.sort("feature", "key"))
