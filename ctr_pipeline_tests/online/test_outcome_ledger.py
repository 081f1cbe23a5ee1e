"""Sums of a canary's outcomes are those that a plain count of all events finds, in whatever order they arrive."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.online.event_facts import Arrived, known_outcomes
from ctr_pipeline.online.outcome_ledger import COUNTED, CountedTasks, OutcomeLedger, ScoredImpression, batch_of
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event, FullError
from ctr_pipeline.serving.release import Arm
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.example_counts import costly

SPEC = parse_spec(
    """
version: 1
name: t
source: {impressions: {paths: [x.parquet]}, events: [{paths: [y.parquet]}]}
impression: {id: i, time: t, user: u}
features: {dense: [{name: price}]}
tasks:
  - {name: seen, window: 0s, label: {column: seen}}
  - {name: click, window: 10m, label: {event: click}}
  - {name: bought, parent: seen, window: 1h, label: {event: bought}}
  - {name: buy, parent: click, window: 2h, window_from: click, label: {event: buy}}
""",
    "t",
)
COUNTED_TASKS = CountedTasks.of(SPEC)
MINUTE = 60_000_000
START = 1_700_000_000_000_000
CANARY = "canary-impression-4711"

minutes = st.integers(0, 80)
names = st.integers(0, 5).map(lambda at: f"i{at}")
scorings = st.tuples(st.just("scored"), names, minutes, st.sampled_from([Arm.CHAMPION, Arm.CHALLENGER]))
happenings = st.tuples(st.sampled_from([IMPRESSION, "click", "buy", "bought"]), names, minutes, st.integers(0, 20))


def probabilities(name: str) -> list[float]:
    return [0.5, 0.1 + int(name[1:]) / 16, 0.25, 0.03125 * (1 + int(name[1:]))]


def test_tasks_are_those_of_events_whose_parents_are_too() -> None:
    assert (COUNTED_TASKS.names, COUNTED_TASKS.places) == (("click", "buy"), [1, 3])


def test_batches_are_short_at_first_and_then_few() -> None:
    second = 1_000_000
    assert [batch_of(at * second) for at in (-5, 0, 19, 20, 3599, 3600, 3899, 3900)] == [0, 0, 0, 1, 179, 180, 180, 181]
    assert batch_of(14 * 24 * 3600 * second) < 5000


@settings(max_examples=costly(100), deadline=None)
@given(st.lists(scorings | happenings, max_size=40), st.sets(st.integers(0, 39)))
def test_sums_are_those_of_a_plain_count(steps: list, restarts: set[int]) -> None:
    steps = sorted(steps, key=lambda step: step[2])
    scored: dict[str, tuple[Arm, int]] = {}
    shown: dict[str, tuple[int, int]] = {}
    events: dict[str, list[Arrived]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ledger = OutcomeLedger(Path(folder), COUNTED_TASKS, START)
        for at, (kind, name, minute, more) in enumerate(steps):
            now = START + minute * MINUTE
            if at in restarts:
                ledger.close()
                ledger = OutcomeLedger(Path(folder), COUNTED_TASKS, START)
            if kind == "scored":
                # What is there stays, for as long as its outcomes count.
                if name not in scored:
                    scored[name] = more, now
                    ledger.add_scored([ScoredImpression(more, name, probabilities(name), now)], now)
                continue
            event = Event(kind, name, now - more * MINUTE, now)
            ledger.add_events([event, event], now)
            if name not in scored or now - scored[name][1] > COUNTED:
                continue
            if kind == IMPRESSION:
                shown.setdefault(name, (event.ts, now))
            elif kind != "bought":
                events.setdefault(name, []).append(Arrived(kind, event.ts, now))
        found = ledger.outcomes(START + 1000 * MINUTE)
        assert ledger.outcomes(START + 19_000_000) == [] or all(not of.batches for of in ledger.outcomes(START))
        ledger.close()
    for of, place in zip(found, COUNTED_TASKS.places, strict=True):
        for arm, side in ((Arm.CHALLENGER, of.challenger), (Arm.CHAMPION, of.champion)):
            own = [name for name in shown if scored[name][0] is arm]
            hits = [
                name
                for name in own
                if of.task in known_outcomes(COUNTED_TASKS.tasks, *shown[name], events.get(name, []), 0)
            ]
            assert side.observed == len(hits)
            assert side.expected == pytest.approx(sum(probabilities(name)[place] for name in own))


def test_ids_are_kept_as_digests_and_not_for_ever(tmp_path: Path) -> None:
    ledger = OutcomeLedger(tmp_path, COUNTED_TASKS, START)
    one = ScoredImpression(Arm.CHALLENGER, CANARY, [0.5] * 4, START)
    ledger.add_scored([one], START)
    click = Event("click", CANARY, START + 1, START + 2)
    ledger.add_events([Event(IMPRESSION, CANARY, START, START + 1), click], START + 2)
    assert CANARY.encode() not in (tmp_path / "data.mdb").read_bytes()
    later = START + COUNTED + 30 * MINUTE * 3
    ledger.add_scored([one._replace(scored=later)], later)
    ledger.add_events([Event(IMPRESSION, CANARY, START, later)], later)
    [click_sums, _] = ledger.outcomes(later + 100 * MINUTE)
    assert (click_sums.challenger.observed, click_sums.challenger.expected) == (1, 1.0)


@pytest.mark.parametrize("back", [1, 90, 60 * 24 * 365])
def test_a_clock_that_is_set_back_stops_nothing(tmp_path: Path, back: int) -> None:
    ledger = OutcomeLedger(tmp_path, COUNTED_TASKS, START)
    now = START
    for _ in range(3):
        for at in range(4):
            name = f"{now} {at}"
            ledger.add_scored([ScoredImpression(Arm.CHAMPION, name, [0.5] * 4, now)], now)
            ledger.add_events([Event(IMPRESSION, name, now, now), Event("click", name, now, now)], now)
            now += 40 * MINUTE
        now -= back * MINUTE
    [click, _] = ledger.outcomes(START + 60 * 24 * 400 * MINUTE)
    assert click.champion.observed == 12


def test_a_full_file_takes_nothing_half(tmp_path: Path) -> None:
    ledger = OutcomeLedger(tmp_path, COUNTED_TASKS, START, most_bytes=200_000)
    rows = [ScoredImpression(Arm.CHAMPION, f"i{at}", [0.5] * 4, START) for at in range(5000)]
    with pytest.raises(FullError, match="no room"):
        ledger.add_scored(rows, START)
    ledger.add_scored(rows[:10], START)
    ledger.add_events([Event(IMPRESSION, f"i{at}", START, START) for at in range(5000)], START)
    [click, _] = ledger.outcomes(START + 60 * MINUTE)
    assert click.champion.expected == 5.0
    # Old ones make room.
    later = START + 3 * COUNTED
    ledger.add_scored(rows[:300], later)
    assert np.isfinite(click.champion.expected)
