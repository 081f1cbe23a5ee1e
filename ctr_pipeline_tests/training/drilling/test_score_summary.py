"""Scores of drills: exact intervals, who counts as right, and what rules that always fire are worth."""

from typing import Any

import pytest
from scipy.stats import binomtest

from ctr_pipeline.training.drilling.generic_alarms import Alarm
from ctr_pipeline.training.drilling.score_summary import (
    Share,
    clopper_pearson,
    half_score,
    healthy_score,
    per_steps,
)
from ctr_pipeline.training.drilling.scored_drill import ScoredDrill


def scored(fault: str = "leak", **changed: Any) -> ScoredDrill:
    parts: dict[str, Any] = {
        "fault": fault, "family": f"family of {fault}", "half": "development", "seed": 1, "found_by": "single_feature",
        "found_at": 0, "steps": 1, "stopped": True, "validation": None, "causes": (fault,), "sure": True, "score": 0.95, "rank": 1,
        "location": None, "located": None, "generic": (), "rules": (),
    }  # fmt: skip
    return ScoredDrill(**(parts | changed))


def healthy(**changed: Any) -> ScoredDrill:
    parts: dict[str, Any] = {"half": "healthy", "family": "healthy", "steps": 180, "stopped": False, "rank": None}
    return scored("usual", **(parts | {"found_by": "", "found_at": None, "causes": (), "sure": False} | changed))


@pytest.mark.parametrize(("count", "of"), [(0, 30), (1, 7), (5, 10), (19, 20), (20, 20), (0, 1)])
def test_intervals_are_those_of_clopper_and_pearson(count: int, of: int) -> None:
    expected = binomtest(count, of).proportion_ci(0.95, "exact")
    assert clopper_pearson(count, of) == pytest.approx((expected.low, expected.high))


def test_of_nothing_there_is_no_share() -> None:
    assert Share(0, 0).value is None
    assert Share(0, 0).interval == (0.0, 1.0)


def test_a_half_counts_ranks_places_and_what_it_is_sure_of() -> None:
    runs = [
        scored(located=True),
        scored(located=False, found_at=10),
        scored("huge_lr", causes=("x", "huge_lr"), rank=2, found_at=100),
        scored("temperature", causes=("no_base_rate",), rank=None, sure=False, found_at=20),
        scored("silent", causes=(), rank=None, sure=False, stopped=False, found_by="", found_at=None, trouble="KeyError: 1"),
        scored("warned", stopped=False, found_by="triage (warning)"),
        scored("other", half="scored"),
    ]  # fmt: skip
    found = half_score("development", runs, [])
    counts = {n: (getattr(found, n).count, getattr(found, n).of) for n in ("top1", "top3", "located", "abstained")}
    assert counts == {"top1": (3, 6), "top3": (4, 6), "located": (1, 2), "abstained": (1, 6)}
    assert (found.wrong_while_sure.count, found.wrong_while_sure.of) == (1, 4)
    assert (found.faults, found.families, found.silent.count, found.green.count) == (5, 5, 2, 1)
    assert found.steps_median == 15.0
    assert (found.silent_faults, found.green_faults) == ({"silent": 1, "warned": 1}, {"silent": 1})
    assert found.misnamed == {"huge_lr": {"x": 1}, "silent": {"unknown": 1}, "temperature": {"no_base_rate": 1}}
    assert found.troubles == {"silent": "KeyError: 1"}


def test_rules_that_fire_in_healthy_trainings_notice_nothing() -> None:
    always, own = Alarm("loss_not_decreasing", 10), Alarm("dead_relu", 3)
    runs = [scored("dead_relu", rules=(own, always)), scored("leak", rules=(always,)), scored("loss_sum", rules=(own,))]
    found = half_score("development", runs, [healthy(rules=(always,))])
    assert (found.rules.count, found.rules_beyond_healthy.count, found.rules_named.count) == (3, 2, 1)


def test_false_alarms_are_counted_by_step() -> None:
    runs = [healthy() for _ in range(9)]
    refused = healthy(stopped=True, found_by="norm_ratio", steps=20, generic=(Alarm("norm", 5), Alarm("loss", 5)))
    warned = healthy(found_by="funnel (warning)", causes=("leak",), sure=True)
    found = healthy_score([*runs, refused, warned])
    assert (found.runs, found.steps, found.hard.count, found.warnings.count) == (11, 1820, 1, 1)
    assert (found.generic.count, found.named.count, found.sure.count) == (1, 1, 1)
    assert found.refused == {"usual": {"norm_ratio": 1}}
    value, low, high = per_steps(found.hard)
    assert value == pytest.approx(10_000 / 1820)
    assert low < value < high
    assert found.to_dict()["hard"]["per_10000_steps"] == (value, low, high)
