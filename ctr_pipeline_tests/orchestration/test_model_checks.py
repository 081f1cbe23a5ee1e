"""The checks of an evaluation refuse with the numbers, each on its own ground."""

from dataclasses import replace

import pytest

from ctr_pipeline.evaluation import Floor
from ctr_pipeline.orchestration.checks.definition import check_results, refused
from ctr_pipeline.orchestration.checks.model_quality import BundleEvidence, EvaluationEvidence, StoredEmbeddings
from ctr_pipeline.orchestration.gates import passed_text
from ctr_pipeline.serving.latency import Latency

FLOOR = Floor(validation_ne=0.8, validation={}, position={}, validation_reasons=(), position_reasons=())
GOOD = EvaluationEvidence({"click": 0.8}, [], {"click": (1.0, 0.95, 1.05)}, {}, FLOOR)


@pytest.mark.parametrize(
    ("evidence", "check"),
    [
        (
            replace(GOOD, floor=replace(FLOOR, validation_ne=3.94, validation_reasons=("NE 3.94",))),
            "better_on_validation",
        ),
        (replace(GOOD, floor=replace(FLOOR, position_reasons=("click: NE +2 %",))), "better_than_position"),
        (replace(GOOD, errors=["The check ranker.norm_ratio has an error: 205x"]), "no_earlier_errors"),
        (replace(GOOD, not_better=["click: NE 1.1"]), "better_than_base_rate"),
    ],
)
def test_each_ground_refuses_alone(evidence: EvaluationEvidence, check: str) -> None:
    [found] = refused("evaluation", check_results("evaluation", evidence))
    assert found.check_name == check
    assert found.description


def test_a_good_model_passes_every_gate_and_says_by_how_much() -> None:
    assert refused("evaluation", check_results("evaluation", GOOD)) == []
    interval = {"value": -0.15, "low": -0.2, "high": -0.1}
    metrics = {"click": {"test": {"ne": {"value": 0.81}}}, "buy": {"test": {"ne": {"value": 0.9}}}}
    text = passed_text(metrics, {"validation_ne": 0.8236, "position": {"click": {"relative": interval}}})
    assert text == (
        "Every gate is passed: validation NE 0.824; on the test click NE 0.810, -15.0% beside the position alone, buy NE 0.900."
    )


@pytest.mark.parametrize("budget", [None, 8.0, 1.5])
def test_a_bundle_is_refused_for_its_latency_alone(budget: float | None) -> None:
    latency = Latency(candidates=300, p50=1.0, p99=2.0)
    evidence = BundleEvidence(True, 0.0, 0.0, 0.0, latency, budget, StoredEmbeddings("fp32", 0.0, 0.01))
    checks = {check.check_name: check for check in check_results("serving_bundle", evidence)}
    found = refused("serving_bundle", list(checks.values()))
    assert [check.check_name for check in found] == (["latency_budget"] if budget == 1.5 else [])
    text = str(checks["latency_budget"].description)
    assert text.startswith("a request takes 2.00 ms of one core at the 99th percentile for 300 impressions")
    if budget == 1.5:
        assert "the spec allows 1.5 (`serving.budget_ms`). Choose a smaller `model`" in text


@pytest.mark.parametrize(("change", "passed"), [(0.0, True), (0.01, True), (0.0101, False), (float("nan"), False)])
def test_a_bundle_is_refused_whose_stored_embeddings_change_too_much(change: float, passed: bool) -> None:
    latency = Latency(candidates=1, p50=1.0, p99=2.0)
    evidence = BundleEvidence(True, 0.0, 0.0, 0.0, latency, None, StoredEmbeddings("int8", change, 0.01))
    checks = check_results("serving_bundle", evidence)
    assert [check.check_name for check in refused("serving_bundle", checks)] == (
        [] if passed else ["stored_embeddings"]
    )
    [found] = [check for check in checks if check.check_name == "stored_embeddings"]
    assert "embeddings in int8 change a probability" in str(found.description)
    assert ("Choose another `serving.embedding_storage`" in str(found.description)) is not passed
