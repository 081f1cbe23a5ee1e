"""The gates on rows whose truth is known: equal models, worse ones, better ones, and tests that are too small."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.evaluation import EvaluationError, PromotionDecision, PromotionRules, decide_promotion, stops
from ctr_pipeline.evaluation.daily_entropy import DayEntropy, daily_entropies
from ctr_pipeline.evaluation.promotion import GATES, Standing, latest_tests
from ctr_pipeline.evaluation.promotion_gates import Gate, GateStatus

RULES = PromotionRules(max_ne_regression=0.01)


def two_tasks(seed: int, n: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = np.stack([rng.normal(-1, 1, n), rng.normal(-6.3, 1, n)], axis=1)
    y = (rng.random(z.shape) < special.expit(z)).astype(np.int8)
    return z, y, rng.integers(0, 3000, n)


def decide(
    challenger: np.ndarray, champion: np.ndarray | None, y: np.ndarray, user: np.ndarray, **others: object
) -> PromotionDecision:
    rules = others.pop("rules", RULES)
    names = ["click", "buy"][: y.shape[1]]
    return decide_promotion(names, challenger, champion, y, user, rules=rules, **others)  # type: ignore[arg-type]


def gate(found: PromotionDecision, name: str) -> Gate:
    return {gate.name: gate for gate in found.gates}[name]


def test_the_first_model_is_promoted_and_no_gate_applies() -> None:
    z, y, user = two_tasks(0)
    found = decide(z, None, y, user, days=np.arange(len(y)) // 10_000)
    assert found.promote
    assert found.reasons == ["There is no champion yet."]
    assert found.standing is Standing.FIRST
    assert [gate.name for gate in found.gates] == list(GATES)
    assert {gate.status for gate in found.gates} == {GateStatus.NOT_APPLICABLE}
    assert {day.day for day in found.days} == {"1970-01-01", "1970-01-02"}


def test_an_equal_or_better_model_is_promoted_and_a_worse_one_is_not() -> None:
    z, y, user = two_tasks(0)
    noisy = z + np.random.default_rng(1).normal(0, 1, z.shape)
    equal = decide(z, z, y, user)
    assert equal.promote
    assert equal.standing is Standing.NOT_WORSE
    assert equal.reasons[-1] == (
        "Further gates passed: ranking; not decided, with too few outcomes: calibration, days; "
        "not applicable: slices, random traffic."
    )
    better = decide(z, noisy, y, user)
    assert better.promote
    assert better.standing is Standing.BETTER
    assert better.differences["click"].relative_ne.interval().high < 0
    worse = decide(noisy, z, y, user)
    assert not worse.promote
    assert worse.standing is Standing.WORSE
    assert "may be more than 1.00% worse" in worse.reasons[0]
    json.dumps(worse.to_json(), allow_nan=False)


def test_where_better_is_required_an_equal_model_waits() -> None:
    z, y, user = two_tasks(0)
    rules = replace(RULES, require_better=True)
    noisy = z + np.random.default_rng(1).normal(0, 1, z.shape)
    equal = decide(z, z + np.random.default_rng(2).normal(0, 0.01, z.shape), y, user, rules=rules)
    assert not equal.promote
    assert equal.standing is Standing.NOT_WORSE
    assert "quality.promotion.require" in gate(equal, "normalised_entropy").reasons[-1]
    assert decide(z, noisy, y, user, rules=rules).promote


def test_a_rare_task_objects_only_when_it_is_surely_worse() -> None:
    z, y, user = two_tasks(2)
    assert 5 < (y[:, 1] == 1).sum() < 100
    slightly = z.copy()
    slightly[:, 1] += 0.1
    assert decide(slightly, z, y, user).promote
    broken = z.copy()
    broken[:, 1] = 0.0
    found = decide(broken, z, y, user)
    assert not found.promote
    assert any("buy: NE" in reason and "surely worse" in reason for reason in found.reasons)


def test_a_challenger_stays_out_when_nothing_can_be_shown() -> None:
    z, y, user = two_tasks(3)
    rare = y.copy()
    rare[:, 0] = 0
    found = decide(z, z, rare, user)
    assert not found.promote
    assert "nothing shows" in gate(found, "normalised_entropy").reasons[-1]
    assert "do not have labels of both classes" in found.reasons[0]


def test_shapes_are_checked() -> None:
    z, y, user = two_tasks(4)
    with pytest.raises(EvaluationError, match="champion: expected shape"):
        decide(z, z[:-1], y, user)


def large(n: int = 400_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    z = rng.normal(-1, 1, (n, 1))
    return z, (rng.random(z.shape) < special.expit(z)).astype(np.int8), rng.integers(0, n // 5, n)


def test_a_large_test_decides_and_a_small_one_says_how_large_it_would_have_to_be() -> None:
    z, y, user = large()
    other = z + np.random.default_rng(6).normal(0, 0.02, z.shape)
    assert {g.status for g in decide(other, z, y, user).gates[:4]} <= {GateStatus.PASSED, GateStatus.NOT_APPLICABLE}
    small = slice(0, 4000)
    noisy, as_noisy = (z + np.random.default_rng(seed).normal(0, 0.2, z.shape) for seed in (6, 7))
    found = decide(noisy[small], as_noisy[small], y[small], user[small])
    ranking = gate(found, "ranking")
    assert ranking.status is GateStatus.UNDECIDED
    [auc, _] = ranking.reasons
    assert "cannot be decided with" in auc
    assert "give the test more days" in auc
    outcomes = int(auc.split("it needs about ")[1].split(":")[0].replace(",", ""))
    assert outcomes > 10 * (y[small] == 1).sum()
    assert not stops(ranking, RULES)
    assert stops(ranking, replace(RULES, undecided_passes=False))
    assert not decide(
        noisy[small], z[small], y[small], user[small], rules=replace(RULES, undecided_passes=False)
    ).promote


def test_a_model_that_ranks_surely_worse_fails_however_small_the_test() -> None:
    z, y, user = large(4000)
    found = decide(-z - 2, z, y, user)
    assert gate(found, "ranking").status is GateStatus.FAILED
    assert "max_auc_loss" in gate(found, "ranking").reasons[0]


def test_rates_that_are_off_stop_a_model_unless_the_champion_has_them_too() -> None:
    z, y, user = large()
    off = z + 0.08
    found = decide(off, z, y, user)
    calibration = gate(found, "calibration")
    assert calibration.status is GateStatus.FAILED
    assert "the champion has 0.997" in calibration.reasons[0]
    # A champion that holds is no excuse, however near.
    assert gate(decide(z + 0.045, z + 0.02, y, user), "calibration").status is GateStatus.FAILED
    both = gate(decide(off, off + 0.001, y, user), "calibration")
    assert both.status is GateStatus.PASSED
    assert "the champion is as far off" in both.reasons[0]


def test_one_broken_slice_stops_a_model_that_is_as_good_in_all() -> None:
    z, y, user = large(100_000)
    part = np.random.default_rng(7).integers(0, 20, len(z))
    broken = z.copy()
    broken[part == 3] += np.random.default_rng(8).normal(0, 0.8, (int((part == 3).sum()), 1))
    slices = {"part": np.array([f"p{code}" for code in part])}
    found = decide(broken, z, y, user, slices=slices)
    assert gate(found, "normalised_entropy").status is GateStatus.PASSED
    failed = gate(found, "slices")
    assert failed.status is GateStatus.FAILED
    assert failed.figures == {"slices": 20, "worse": 1}
    assert "click: part p3: NE +" in failed.reasons[1]
    # A slice of less traffic than the limit is not looked at.
    rules = replace(RULES, min_slice_share=0.2)
    assert gate(decide(broken, z, y, user, slices=slices, rules=rules), "slices").status is GateStatus.NOT_APPLICABLE


def test_a_model_that_fails_on_every_third_day_is_stopped_by_the_days() -> None:
    z, y, user = large(60_000)
    day = np.arange(len(z)) % 6
    other = z + np.random.default_rng(9).normal(0, 0.03, z.shape)
    assert gate(decide(other, z, y, user, days=day), "days").status is GateStatus.PASSED
    other[day % 3 == 0] += np.random.default_rng(10).normal(0, 0.6, (20_000, 1))
    failed = gate(decide(other, z, y, user, days=day), "days")
    assert failed.status is GateStatus.FAILED
    assert "not worse on 4 of 6 days" in failed.reasons[0]
    assert "1970-01-01 +" in failed.reasons[0]


def test_each_day_counts_once_as_the_latest_retrain_tested_it() -> None:
    def day(name: str, relative: float) -> DayEntropy:
        return DayEntropy(
            day=name, task="click", rows=9, positives=5, ne=1, error=1, relative=relative, relative_error=0.1, freedom=9
        )

    earlier = {"2026-02-02": [day("b", 2.0), day("c", 3.0)], "2026-02-01": [day("a", 5.0), day("b", 6.0)]}
    found = latest_tests("2026-02-03", [day("c", 1.0), day("d", 4.0)], earlier)
    assert [(origin, of.day, of.relative) for origin, of in found] == [
        ("2026-02-01", "a", 5.0), ("2026-02-02", "b", 2.0), ("2026-02-03", "c", 1.0), ("2026-02-03", "d", 4.0)
    ]  # fmt: skip


def test_random_traffic_decides_for_itself() -> None:
    z, y, user = large(200_000)
    random = np.random.default_rng(11).random(len(z)) < 0.3
    worse = z.copy()
    worse[random] += np.random.default_rng(12).normal(0, 0.7, (int(random.sum()), 1))
    found = decide(worse, z, y, user, random=random)
    assert gate(found, "random_traffic").status is GateStatus.FAILED
    assert gate(decide(z, z, y, user, random=random), "random_traffic").status is GateStatus.PASSED
    none = np.zeros(len(z), dtype=np.bool_)
    assert gate(decide(z, z, y, user, random=none), "random_traffic").status is GateStatus.NOT_APPLICABLE


def test_days_survive_json() -> None:
    z, y, user = two_tasks(13)
    found = daily_entropies(["click", "buy"], z, z + 0.1, y, user, np.arange(len(z)) // 7000)
    assert found
    assert [DayEntropy.from_json(json.loads(json.dumps(day.to_json()))) for day in found] == found
