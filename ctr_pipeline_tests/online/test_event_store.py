"""Features that look back from a request: events that arrived one by one give what training computes of the whole log."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ctr_pipeline.features import join_history
from ctr_pipeline.lake import Lake
from ctr_pipeline.online.event_sequences import exact_sequences
from ctr_pipeline.online.event_store import MOST_OF_IMPRESSION, EventStore, exact_features
from ctr_pipeline.privacy.erasing import erase_user
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event, FullError
from ctr_pipeline_tests.features.pasts import (
    DAY,
    EXACT,
    FIRST,
    SPEC,
    Past,
    Row,
    naive_exact_sequences,
    random_past,
    start,
)

FEATURES = exact_features(SPEC)
HOUR = DAY // 24


def in_order(past: Past) -> list[Event]:
    shown = [Event(IMPRESSION, r.name, r.ts, r.ingest_ts, {"user": r.user, "ad": r.ad}) for r in past.rows]
    happened = [Event(task, name, at, known) for name, task, at, known in past.events]
    return sorted([*shown, *happened], key=lambda event: event.arrived)


def listed(store: EventStore, probe: Row) -> dict[str, tuple[float | None, str | None]]:
    """Each place of the sequences of a row: instant and item, or instant and kind."""
    found: dict[str, tuple[float | None, str | None]] = {}
    for feature in exact_sequences(SPEC):
        [(items, kinds, instants)] = store.lists(feature, [getattr(probe, feature.key)], [probe.ts])
        for names, values in ((feature.items, items), (feature.kinds, kinds)):
            found |= dict(zip(names, zip(instants, values, strict=True), strict=False))
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_replayed_log_gives_the_values_of_training(seed: int, tmp_path: Path) -> None:
    past, store = random_past(seed, 300), EventStore(tmp_path, SPEC)
    days = sorted(set(past.impressions().select("day").collect()["day"]))
    joined = join_history(SPEC, past.impressions(), past.history(days).lazy(), [f.name for f in FEATURES]).collect()
    expected = {row["impression_id"]: row for row in joined.iter_rows(named=True)}
    asked = sorted(past.rows, key=lambda row: row.ts)
    events, compared, there = in_order(past), 0, 0
    sequences = naive_exact_sequences(past)
    for probe in asked:
        # What arrives at the instant of the request is not known yet.
        now = [event for event in events if event.arrived < probe.ts]
        events = events[len(now) :]
        store.append(now, probe.ts)
        for feature in FEATURES:
            key = probe.user if feature.key == "user" else probe.ad
            [found] = store.values(feature, [key], np.array([probe.ts]))
            wanted = expected[probe.name][feature.name]
            assert (None if math.isnan(found) else found) == (wanted if wanted is None else pytest.approx(wanted, rel=1e-12)), (probe, feature.name)  # fmt: skip
            compared, there = compared + 1, there + (wanted is not None and wanted > 0)
        assert listed(store, probe) == sequences[probe.name]
    assert sum(map(len, sequences.values())) > 1000
    assert (compared, there > 300) == (len(FEATURES) * len(past.rows), True)


def test_nothing_is_stored_twice_in_whatever_order(tmp_path: Path) -> None:
    past = random_past(4, 120)
    events, now = in_order(past), start(FIRST)
    one, other = EventStore(tmp_path / "one", SPEC), EventStore(tmp_path / "other", SPEC)
    first = one.append(events, now)
    distinct = len({(e.kind, e.impression, 0 if e.kind == IMPRESSION else e.ts) for e in events})
    assert (first.accepted, first.repeated) == (distinct, len(events) - distinct)
    assert one.append(events, now).accepted == 0
    unique = {(e.kind, e.impression, 0 if e.kind == IMPRESSION else e.ts): e for e in reversed(events)}
    for event in list(unique.values())[::-1][::-1]:
        other.append([event], now)
    for feature in FEATURES:
        keys = ["u1", "u2", "u3", None, "new"] if feature.key == "user" else ["a", "b", "c", None, "new"]
        for at in range(3, 13):
            times = np.array([start(FIRST) + at * DAY + HOUR] * 5)
            np.testing.assert_array_equal(one.values(feature, keys, times), other.values(feature, keys, times))


def test_what_is_too_old_goes_and_a_full_store_takes_nothing(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "small", SPEC, most_bytes=2_000_000)
    shown = [
        Event(IMPRESSION, f"i{n}", start(FIRST), start(FIRST), {"user": f"u{n}", "ad": "a"}) for n in range(20_000)
    ]
    with pytest.raises(FullError, match="2000000 bytes"):
        store.append(shown, start(FIRST))
    seen = next(f for f in FEATURES if f.name == "seen_before")
    at = np.array([start(FIRST) + 1])
    assert store.values(seen, ["u0"], at) == [0.0]
    store.append(shown[:100], start(FIRST))
    assert store.values(seen, ["u0"], at) == [1.0]
    assert store.append(shown[:100], start(FIRST) + 30 * DAY).too_old == 100
    for day in range(30, 60):
        now = start(FIRST) + day * DAY
        store.append([Event(IMPRESSION, f"d{day}", now, now, {"user": "u0", "ad": "a"})], now)
    assert store.values(seen, ["u0"], at) == [0.0]
    # Room that has become free is used again.
    for day in range(60, 200):
        now = start(FIRST) + day * DAY
        fresh = [Event(IMPRESSION, f"d{day}-{n}", now, now, {"user": f"v{n}", "ad": "a"}) for n in range(50)]
        assert store.append(fresh, now).accepted == 50


def test_an_impression_has_no_more_outcomes_than_can_be_read_quickly(tmp_path: Path) -> None:
    store, now = EventStore(tmp_path, SPEC), start(FIRST)
    shown = Event(IMPRESSION, "i1", now, now, {"user": "u1", "ad": "a1"})
    clicks = [Event("click", "i1", now + 1 + at, now + 1 + at) for at in range(MOST_OF_IMPRESSION + 300)]
    stored = store.append([*clicks[:150], shown, *clicks[150:]], now)
    assert (stored.accepted, stored.repeated) == (MOST_OF_IMPRESSION + 1, 300)
    other = store.append([Event("click", "i2", now + 1, now + 1)], now)
    assert other.accepted == 1
    # The first of them are those that count.
    [feature] = [f for f in FEATURES if f.key == "ad" and f.name == "clicked_before"]
    assert store.values(feature, ["a1"], np.array([now + HOUR])).tolist() == [1.0]


def test_a_forgotten_user_has_no_moments(tmp_path: Path) -> None:
    store, now = EventStore(tmp_path, SPEC), start(FIRST) + HOUR
    user = "f" * 32
    store.append(
        [Event(IMPRESSION, f"i{n}", now, now, {"user": u, "ad": "a"}) for n, u in enumerate([user, "u2"])], now
    )
    seen = next(f for f in FEATURES if f.name == "seen_before")
    assert store.values(seen, [user, "u2"], np.array([now + 1] * 2)).tolist() == [1.0, 1.0]
    store.forget(user)
    assert store.values(seen, [user, "u2"], np.array([now + 1] * 2)).tolist() == [0.0, 1.0]
    assert user.encode() not in (tmp_path / "data.mdb").read_bytes()
    [ads_before] = [f for f in exact_sequences(SPEC) if f.name == "ads_before"]
    assert store.lists(ads_before, [user, "u2"], [now + 1] * 2) == [([], [], []), (["a"], [None], [float(now)])]
    # Whatever sequence lists the user, forgets the user.
    store.forget("a")
    assert store.lists(ads_before, ["u2"], [now + 1]) == [([], [], [])]


WRITER = """
import sys
from ctr_pipeline.online.event_store import EventStore
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event
from ctr_pipeline_tests.features.pasts import FIRST, SPEC, start
from pathlib import Path
store, now = EventStore(Path(sys.argv[1]), SPEC), start(FIRST)
for number in range(int(sys.argv[2]), 10**6):
    store.append([Event(IMPRESSION, f"i{number}", now, now, {"user": "u1", "ad": "a"})], now)
    print(number, flush=True)
"""


def test_no_acknowledged_event_is_lost_when_a_writer_is_killed(tmp_path: Path, project: Path) -> None:
    """A killed writer leaves whole events, its own and those of another process, and others go on at once."""
    acknowledged = 0
    for round_ in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(acknowledged)]
        environment = {**os.environ, "PYTHONPATH": str(project)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout is not None
            for _ in range(20 + round_):
                acknowledged = int(writer.stdout.readline()) + 1
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split("\n")[:-1]
        acknowledged = max([acknowledged, *(int(line) + 1 for line in rest)])
    store = EventStore(tmp_path, SPEC)
    seen = next(f for f in FEATURES if f.name == "seen_before")
    [found] = store.values(seen, ["u1"], np.array([start(FIRST) + 1]))
    # At most the one that was being written when a writer was killed is there without having been acknowledged.
    assert acknowledged <= found <= acknowledged + 5
    began = time.monotonic()
    store.append([Event(IMPRESSION, "last", start(FIRST), start(FIRST), {"user": "u1"})], start(FIRST))
    assert time.monotonic() - began < 3


def test_a_forgotten_user_is_in_no_exact_row_of_the_history_table(tmp_path: Path) -> None:
    past, lake = random_past(8, 150), Lake(tmp_path)
    shown = past.impressions().collect().sort("day")
    days = sorted(set(shown["day"]))
    history = past.history(days)
    lake.replace_days("impressions", shown, days)
    lake.replace_days("history", history, days)
    theirs = shown.filter(pl.col("user") == "u1")
    erase_user(SPEC, lake, "u1", theirs.select("day", "impression_id", "ts"))
    own = pl.col("key").is_in(theirs["impression_id"].implode()) & pl.col("feature").is_in(EXACT)
    left = history.filter(~own, pl.col("key") != "u1")
    assert history.height - left.height > 200
    assert_frame_equal(lake.scan("history").collect().select(left.columns), left, check_row_order=False)


def test_a_full_store_has_room_again_once_its_events_are_too_old(tmp_path: Path) -> None:
    store, now = EventStore(tmp_path, SPEC, most_bytes=2_000_000), start(FIRST)

    def fill(most: int) -> None:
        for number in range(most):
            store.append([Event(IMPRESSION, f"i{number}-{n}", now, now, {"user": f"u{n}"}) for n in range(5)], now)

    fill(100)
    with pytest.raises(FullError):
        fill(100_000)
    later = now + 30 * DAY
    fresh = [Event(IMPRESSION, f"l{n}", later, later, {"user": f"u{n}", "ad": "a"}) for n in range(200)]
    assert store.append(fresh, later).accepted == 200


def test_a_key_of_which_much_happens_is_counted_whole(tmp_path: Path) -> None:
    """More within an hour than single moments are read of: whole minutes are sums, too."""
    store, rng, begin = EventStore(tmp_path, SPEC), np.random.default_rng(0), start(FIRST) + DAY // 3
    known = np.sort(begin + rng.integers(0, HOUR // 2, 12_000))
    shown = [Event(IMPRESSION, f"i{at}", ts, ts, {"user": "busy", "ad": "a"}) for at, ts in enumerate(known.tolist())]
    store.append(shown, int(known[-1]))
    seen = next(f for f in FEATURES if f.name == "seen_before")
    minute = HOUR // 60
    asked = np.concatenate(
        [rng.integers(begin, begin + HOUR, 40), known[[0, -1]], known[[0, -1]] + 1, [begin + 7 * minute, begin + HOUR]]
    )
    # As far back as the first of them, too.
    asked = np.concatenate([asked, asked + seen.days * DAY])
    expected = [((known < at) & (known >= at - seen.days * DAY)).sum() for at in asked]
    assert store.values(seen, ["busy"] * len(asked), asked).tolist() == expected
    assert max(expected) == 12_000
