"""What a service tells of a canary's impressions: scores where requests name them, and events, also of models without a store."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from ctr_pipeline.serving.history_lookup import IMPRESSION, Event
from ctr_pipeline.serving.http import ServedArms, ServedModel, ServedModels, ServiceMetrics, build_service
from ctr_pipeline.serving.release import Arm, GuardrailRules, Trial, TrialMode
from ctr_pipeline_tests.serving.http.conftest import LIMITS

NOW = 1_700_000_000_000_000
CANARY = "canary-impression-4711"
TRIAL = Trial(id="t", mode=TrialMode.CANARY, version="2", share=0.5, started="2026-01-01", rules=GuardrailRules())


@dataclass
class Told:
    """Keeps what it is told."""

    kinds: tuple[str, ...] = ("click",)
    pseudonym: Callable[[str], str] = "hash of {}".format
    now: Callable[[], int] = lambda: NOW
    rows: list[tuple[str, Arm, Sequence[Any], np.ndarray]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def scored(self, trial: Trial, arm: Arm, impression_ids: Sequence[Any], probabilities: np.ndarray) -> None:
        self.rows.append((trial.id, arm, impression_ids, probabilities))

    def happened(self, events: Sequence[Event]) -> None:
        self.events += events


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def served(model: ServedModel, told: Told) -> TestClient:
    arms = ServedArms.of(model, model, TRIAL)
    return TestClient(
        build_service(
            ServedModels(arms), limits=LIMITS, token=None, clock=time.perf_counter, metrics=ServiceMetrics(),
            version="0", outcomes=told,
        )
    )  # fmt: skip


def test_scores_of_both_arms_are_told_with_their_impressions(served: TestClient, told: Told) -> None:
    answers = []
    for at in range(20):
        columns = {"price": [at, 2], "impression_id": [f"i{at}", None]}
        answers.append(served.post("/score", json={"candidates": columns}).json()["scores"]["click"])
    served.post("/score", json={"shared": {"price": 1}})
    assert {arm for _, arm, _, _ in told.rows} == {Arm.CHAMPION, Arm.CHALLENGER}
    assert [names for _, _, names, _ in told.rows] == [[f"i{at}", None] for at in range(20)]
    assert np.allclose([scores[:, 0] for _, _, _, scores in told.rows], answers)


def test_events_are_told_where_no_feature_is_made_of_them(served: TestClient, told: Told) -> None:
    shown = {"event": IMPRESSION, "impression_id": CANARY, "ts": NOW, "keys": {"user": "u1", "any": 3}}
    click = {"event": "click", "impression_id": CANARY, "ts": NOW + 1}
    answer = served.post("/events", json={"events": [shown, click]})
    assert answer.json() == {"accepted": 2, "repeated": 0, "too_old": 0}
    assert [(event.kind, event.impression) for event in told.events] == [
        (kind, f"hash of {CANARY}") for kind in (IMPRESSION, "click")
    ]
    for bad in ({**click, "event": "buy"}, {**click, "ts": NOW + 10**9}, {**click, "impression_id": None}):
        answer = served.post("/events", json={"events": [shown, bad]})
        assert answer.status_code == 400
        assert CANARY not in answer.text
    assert len(told.events) == 2
