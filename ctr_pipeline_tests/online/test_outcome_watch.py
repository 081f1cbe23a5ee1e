"""A process that watches a canary: what it takes up, what ends the canary, and that nothing stops the service."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ctr_pipeline.online.outcome_watch import MOST_SCORED, OutcomeWatch
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event
from ctr_pipeline.serving.release import Arm, GuardrailRules, Trial, TrialMode
from ctr_pipeline_tests.online.test_outcome_ledger import CANARY, COUNTED_TASKS, START

TRIAL = Trial(
    id="t1", mode=TrialMode.CANARY, version="2", share=0.1, started="2023-11-14T22:13:20+00:00", rules=GuardrailRules()
)


@dataclass
class Watched:
    folder: Path
    trial: Trial | None = TRIAL
    now: int = START
    ended: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[tuple[Arm, str]] = field(default_factory=Counter)

    def watch(self, pseudonym: Callable[[str], str] = lambda text: f"hash of {text}") -> OutcomeWatch:
        def count(arm: Arm, outcome: str, number: int) -> None:
            self.counts[arm, outcome] += number

        def end(trial: Trial, reason: str) -> None:
            self.ended.append((trial.id, reason))
            self.trial = None

        return OutcomeWatch(
            self.folder, lambda: COUNTED_TASKS, pseudonym=pseudonym, trial=lambda: self.trial, ended=end, count=count,
            now=lambda: self.now, clock=lambda: self.now / 1e6,
        )  # fmt: skip

    def seconds(self, number: float) -> None:
        self.now += round(number * 1e6)


def run(watched: Watched, factor: float, minutes: int, clicks: bool = True) -> None:
    """A process; each second 40 impressions of the champion and 10 of the challenger, all shown."""
    rng, watch = np.random.default_rng(5), watched.watch()
    for _ in range(minutes * 60):
        if watched.trial is None:
            return
        for arm, number, times in ((Arm.CHAMPION, 40, 1.0), (Arm.CHALLENGER, 10, factor)):
            names = [f"{watched.now} {arm} {at}" for at in range(number)]
            true = rng.uniform(0.02, 0.1, number)
            watch.scored(watched.trial, arm, names, np.repeat((true * times)[:, None], 4, axis=1))
            hits = [name for name, p in zip(names, true, strict=True) if clicks and rng.random() < p]
            kinds = [(IMPRESSION, name) for name in names] + [("click", name) for name in hits]
            watch.happened([Event(kind, f"hash of {name}", watched.now, watched.now) for kind, name in kinds])
        watched.seconds(1)
        watch.turn()


def test_a_challenger_with_wrong_probabilities_is_ended_and_others_are_not(tmp_path: Path) -> None:
    for number, (factor, clicks) in enumerate([(2.5, True), (0.4, True), (1.0, True), (2.5, False)]):
        watched = Watched(tmp_path / str(number))
        run(watched, factor, 10, clicks)
        broken = factor != 1.0 and clicks
        assert [trial for trial, _ in watched.ended] == (["t1"] if broken else [])
        assert all("click" in reason and "were predicted" in reason for _, reason in watched.ended)


def test_what_an_earlier_process_counted_is_known_to_the_next(tmp_path: Path) -> None:
    first = Watched(tmp_path)
    run(first, 1.9, minutes=1)
    assert first.ended == []
    after, alone = Watched(tmp_path, now=first.now), Watched(tmp_path / "alone", now=first.now)
    for watched in (after, alone):
        run(watched, 1.9, minutes=20)
        assert watched.ended
    assert after.now < alone.now


def test_without_a_canary_nothing_is_kept(tmp_path: Path) -> None:
    shadow = Trial(id="t1", mode=TrialMode.SHADOW, version="2", share=0.0, started=TRIAL.started, rules=TRIAL.rules)
    unwanted = Trial(
        id="t1", mode=TrialMode.CANARY, version="2", share=0.1, started=TRIAL.started,
        rules=GuardrailRules(early_ratio=None),
    )  # fmt: skip
    for trial in (None, shadow, unwanted):
        watched = Watched(tmp_path, trial)
        watch = watched.watch()
        if trial is not None:
            watch.scored(trial, Arm.CHAMPION, ["i"], np.full((1, 4), 0.5))
        watch.happened([Event(IMPRESSION, "i", START, START)])
        watch.turn()
        assert not any(tmp_path.iterdir())
        assert watched.counts == {}


def test_an_arm_is_thinned_and_a_large_request_is_not_cut(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watch = watched.watch()
    for number in (2 * MOST_SCORED, 1):
        watch.scored(TRIAL, Arm.CHAMPION, [str(at) for at in range(number)], np.full((number, 4), 0.5))
    watch.scored(TRIAL, Arm.CHALLENGER, ["x"], np.full((1, 4), 0.5))
    watched.seconds(1)
    watch.scored(TRIAL, Arm.CHAMPION, ["y"], np.full((1, 4), 0.5))
    assert watched.counts == {
        (Arm.CHAMPION, "kept"): 2 * MOST_SCORED + 1,
        (Arm.CHAMPION, "left_out"): 1,
        (Arm.CHALLENGER, "kept"): 1,
    }


def test_what_cannot_be_kept_is_said_once_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t1").mkdir()
    (tmp_path / "t1" / "data.mdb").write_bytes(b"damaged" * 5000)
    watched = Watched(tmp_path)
    watch = watched.watch()
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            watch.scored(TRIAL, Arm.CHAMPION, [CANARY], np.full((1, 4), 0.5))
            watch.happened([Event(IMPRESSION, CANARY, START, START)])
            watched.seconds(3)
            watch.turn()
    assert len(caplog.records) == 1
    assert "not judged by early outcomes" in caplog.text
    assert str(tmp_path / "t1") in caplog.text
    assert CANARY not in caplog.text
