"""Who answers which request, and that what is served is told from one process to another."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.commands.served_models import refresh
from ctr_pipeline.serving import Bundle, Scores
from ctr_pipeline.serving.http import Limits, RequestError, ServedArms, ServedModel, ServedModels, ServiceMetrics
from ctr_pipeline.serving.http.request_history import KeySource
from ctr_pipeline.serving.http.served_arms import GuardedCounts, score_in_arm, score_in_shadow, user_of
from ctr_pipeline.serving.release import (
    Arm,
    GuardrailRules,
    ServedState,
    ServedVersion,
    Trial,
    TrialMode,
    in_canary,
)
from ctr_pipeline.sources import Pseudonymiser

TRIAL = Trial(
    id="t1", mode=TrialMode.CANARY, version="2", share=0.5, started="2026-01-01T00:00:00+00:00", rules=GuardrailRules()
)


class Counted:
    def __init__(self) -> None:
        self.scored: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self.differences: dict[str, float] = {}

    def arm_scored(self, arm: Arm, seconds: float) -> None:
        assert seconds == 0
        self.scored.append(arm)

    def arm_failed(self, arm: Arm, kind: str) -> None:
        self.failed.append((arm, kind))

    def shadow_differences(self, differences: Any) -> None:
        self.differences = dict(differences)


@pytest.fixture(scope="module")
def champion(bundle: Bundle) -> ServedModel:
    return ServedModel.of(bundle, None, {"version": "1"})


@pytest.fixture(scope="module")
def challenger(second: Bundle) -> ServedModel:
    return ServedModel.of(second, None, {"version": "2"})


def scored(arms: ServedArms, shared: dict[str, Any], counts: Any, body: bytes = b"") -> Any:
    return asyncio.run(score_in_arm(arms, shared, {}, body, limits=Limits(), clock=lambda: 0.0, counts=counts))


class Keys:
    """A store of which only the keys count."""

    def __init__(self, sources: dict[str, KeySource], pseudonym: Any) -> None:
        self.sources, self.pseudonym = sources, pseudonym


class Broken:
    """A session that cannot score, or scores without sense."""

    def __init__(self, value: float | None) -> None:
        self.value = value

    def run(self, names: Any, inputs: Any) -> Any:
        assert list(names) == ["logits", "probabilities"]
        if self.value is None:
            raise RuntimeError("no memory")
        return [np.full((len(inputs["ids"]), 3), self.value, dtype=np.float32)] * 2


def broken(model: ServedModel, value: float | None) -> ServedModel:
    return replace(model, bundle=replace(model.bundle, session=Broken(value)))


@given(share=st.floats(0, 1), unit=st.text(max_size=20), trial=st.text(max_size=8))
def test_a_user_stays_in_the_arm_when_the_share_grows(share: float, unit: str, trial: str) -> None:
    assert not in_canary(unit, trial, 0)
    assert in_canary(unit, trial, 1)
    assert not in_canary(unit, trial, share) or in_canary(unit, trial, min(1.0, share * 1.5))


def test_the_share_is_that_of_the_users_and_trials_draw_independently() -> None:
    users = [f"u{n}" for n in range(20_000)]
    first = np.array([in_canary(user, "a", 0.05) for user in users])
    second = np.array([in_canary(user, "b", 0.05) for user in users])
    assert abs(first.mean() - 0.05) < 0.005
    assert abs((first & second).mean() - 0.0025) < 0.0012


def test_the_arm_follows_the_user_and_not_the_request(champion: ServedModel, challenger: ServedModel) -> None:
    hashed = {"ad": frozenset(("none",))}
    own = Pseudonymiser(b"a key of the tests only").of_text
    model = replace(champion, hashed=hashed, pseudonym=own, user="ad")
    arms = ServedArms.of(model, challenger, TRIAL)
    pseudonym = own("17")
    assert user_of(model, {"ad": "17"}) == user_of(model, {"ad": 17}) == pseudonym
    assert user_of(model, {"ad": "none"}) is None
    assert user_of(model, {"ad": {"x": 1}}) is None
    # For the store alone, where the user is no feature.
    store = Keys({"user_id": KeySource(("user_id", "user"), frozenset(("none",)), True)}, own)
    stored = replace(champion, history=store)
    assert user_of(stored, {"user": 17}) == user_of(stored, {"user_id": "17"}) == pseudonym
    assert user_of(stored, {"user": "none"}) is None
    assert user_of(champion, {"user": 17}) is None
    found = {user: {arms.answering({"ad": user}, bytes([at])) for at in range(20)} for user in range(50)}
    assert all(len(of) == 1 for of in found.values())
    assert {arm for of in found.values() for arm in of} == {Arm.CHAMPION, Arm.CHALLENGER}
    assert len({arms.answering({}, bytes([at])) for at in range(50)}) == 2


def test_without_a_canary_the_champion_answers(champion: ServedModel, challenger: ServedModel) -> None:
    for arms in (
        ServedArms.of(champion),
        ServedArms.of(champion, challenger, replace(TRIAL, mode=TrialMode.SHADOW, share=1.0)),
        ServedArms.of(champion, challenger, replace(TRIAL, share=0.0)),
    ):
        assert scored(arms, {"price": 1}, Counted()).model is champion


def test_the_challenger_answers_with_its_own_scores(champion: ServedModel, challenger: ServedModel) -> None:
    counts = Counted()
    answer = scored(ServedArms.of(champion, challenger, replace(TRIAL, share=1.0)), {"price": 1}, counts)
    expected = challenger.bundle.score(*challenger.bundle.encode([{"price": 1}]))
    np.testing.assert_array_equal(answer.found.scores.logits, expected.logits)
    assert (answer.arm, counts.scored, counts.failed) == (Arm.CHALLENGER, [Arm.CHALLENGER], [])


@pytest.mark.parametrize(("value", "kind"), [(None, "error"), (np.nan, "not_finite"), (np.inf, "not_finite")])
def test_the_champion_answers_where_the_challenger_fails(
    value: float | None, kind: str, champion: ServedModel, challenger: ServedModel
) -> None:
    ended: list[tuple[str, str]] = []
    models = ServedModels(
        ServedArms.of(champion, broken(challenger, value), replace(TRIAL, share=1.0)),
        ended=lambda trial, reason: ended.append((trial.id, reason)),
    )
    counts = Counted()
    guarded = GuardedCounts(counts, models)
    for _ in range(10):
        assert scored(models.current, {"price": 1}, guarded).model is champion
    assert set(counts.failed) == {(Arm.CHALLENGER, kind)}
    assert 2 <= len(counts.failed) < 6
    [(trial, reason)] = ended
    assert (trial, models.current.trial, models.current.refused) == ("t1", None, {"2": reason})
    # The state that still has the trial does not bring it back.
    models.replace(ServedArms.of(champion, challenger, TRIAL))
    assert models.current.trial is None
    models.replace(ServedArms.of(champion, challenger, replace(TRIAL, id="t2")))
    assert models.current.trial is not None


def test_a_bad_request_is_no_failure_of_the_challenger(champion: ServedModel, challenger: ServedModel) -> None:
    counts = Counted()
    with pytest.raises(RequestError, match="price"):
        scored(ServedArms.of(champion, challenger, replace(TRIAL, share=1.0)), {"price": "x"}, counts)
    assert counts.failed == []


def test_features_that_another_version_knows_are_left_out_and_others_refused(
    champion: ServedModel, challenger: ServedModel
) -> None:
    arms = ServedArms.of(champion, other_inputs=frozenset(("weekday",)))
    plain = scored(arms, {"price": 1}, Counted()).found.scores
    with_more = scored(arms, {"price": 1, "weekday": "3"}, Counted()).found.scores
    np.testing.assert_array_equal(plain.logits, with_more.logits)
    with pytest.raises(RequestError, match="prise"):
        scored(arms, {"prise": 1}, Counted())


def test_the_shadow_is_compared_and_its_failures_are_its_own(champion: ServedModel, challenger: ServedModel) -> None:
    trial, counts = replace(TRIAL, mode=TrialMode.SHADOW, share=0.0), Counted()

    def beside(other: ServedModel) -> Scores | None:
        arms = ServedArms.of(champion, other, trial)
        answer = scored(arms, {"price": 1}, counts)
        found = asyncio.run(
            score_in_shadow(arms, answer, {"price": 1}, {}, limits=Limits(), clock=lambda: 0.0, counts=counts)
        )
        return None if found is None else found.scores

    found = beside(challenger)
    assert found is not None
    own = champion.bundle.score(*champion.bundle.encode([{"price": 1}])).logits[0]
    expected = dict(zip(champion.bundle.tasks, np.abs(found.logits[0] - own).tolist(), strict=True))
    assert counts.differences == pytest.approx(expected)
    assert beside(broken(challenger, None)) is None
    assert counts.failed == [(Arm.SHADOW, "error")]


def test_the_state_is_told_as_it_is() -> None:
    version = ServedVersion(folder="/x", sha256="ab", facts={"version": "1"})
    full = ServedState(
        champion=version, challenger=version, trial=TRIAL, refused={"3": "broken"}, other_inputs=("a", "b"), key="k"
    )
    for state in (full, ServedState(champion=version)):
        assert ServedState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_what_is_refused_is_counted_when_it_is_not_when_somebody_asks(champion: ServedModel) -> None:
    """The process that is asked for the metrics shows what the others last set."""

    class Loader:
        def __init__(self) -> None:
            self.refused = {"7": "broken"}

        def arms(self) -> ServedArms:
            return ServedArms.of(champion, None, None, self.refused)

    models, loader, metrics = ServedModels.of(champion), Loader(), ServiceMetrics()
    refresh(models, loader, metrics)  # type: ignore[arg-type]
    assert b"ctr_serve_refused_versions 1.0" in metrics.text()
    loader.refused = {}
    refresh(models, loader, metrics)  # type: ignore[arg-type]
    assert b"ctr_serve_refused_versions 0.0" in metrics.text()
