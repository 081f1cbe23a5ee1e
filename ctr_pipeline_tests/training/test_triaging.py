"""Triage of real trainings with a fault: the cause is named, silence where there is none, replays tell cures from masks."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch

from ctr_pipeline.deployment.retrain_files import TrainingOutcome
from ctr_pipeline.gradients.drills import fault_named, registered_faults
from ctr_pipeline.gradients.triage.evidence import RunEvidence
from ctr_pipeline.gradients.triage.hypothesis import Hypothesis, Triage
from ctr_pipeline.gradients.triage.verdict import triage_finding
from ctr_pipeline.orchestration.assets.training import blocking_findings
from ctr_pipeline.orchestration.checks import check_results
from ctr_pipeline.orchestration.checks.gradient_health import TrainingEvidence
from ctr_pipeline.training import step as steps
from ctr_pipeline.training.drilling.drilled_run import prepare_drill
from ctr_pipeline.training.execution import FINISHED, STOPPED, ProcessContext, execute
from ctr_pipeline.training.triage_bundle import bundle_clues
from ctr_pipeline.training.triage_replay import with_replays
from ctr_pipeline.training.triage_survey import static_clues
from ctr_pipeline.training.triaging import builder_of, evidence_of, triage_of, with_settings

KINDS = (
    "amp_no_scaling",
    "detached_tower",
    "gradients_late",
    "ids_one_further",
    "l2_in_adam",
    "label_permute",
    "log_of_negative",
    "missing_zero_grad",
    "old_weights_return",
    "stale_batch",
    "weights_rounded",
)
"""One fault of each kind of measurement; the others of the development half are looked at each night."""


SURE = Triage(
    hypotheses=(Hypothesis(cause="leak", score=0.95, evidence=("an AUC of 1",), location="rating"),), sure=True
)


def named(name: str, seed: int, folder: Path) -> Triage:
    drill = prepare_drill(fault_named(name) if name else None, seed, folder)
    settings = drill.job.training.model_dump(mode="json")
    return triage_of(with_settings(RunEvidence(), settings), drill.build)


@pytest.mark.parametrize("name", KINDS)
def test_the_built_training_tells_its_fault(name: str, tmp_path: Path) -> None:
    found = named(name, 3, tmp_path)
    assert found.top is not None
    assert found.top.cause in fault_named(name).right_names
    assert found.top.evidence
    assert found.top.fix


@pytest.mark.parametrize("seed", [1, 2])
def test_of_a_sound_training_nothing_is_named(seed: int, tmp_path: Path) -> None:
    assert named("", seed, tmp_path).unknown


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_faults_of_the_development_half_are_named(seed: int, tmp_path: Path) -> None:
    faults = [fault for fault in registered_faults() if fault.half == "development"]
    found = {fault.name: named(fault.name, seed, tmp_path / fault.name) for fault in faults}
    wrong = {
        name: t.top.cause if t.top else ""
        for name, t in found.items()
        if not t.top or t.top.cause not in fault_named(name).right_names
    }
    assert len(wrong) <= 0.05 * len(found), wrong
    assert not [name for name in wrong if found[name].sure]


def test_the_incident_is_an_interaction_that_clipping_masks_and_its_fix_cures(tmp_path: Path) -> None:
    drill = prepare_drill(fault_named("refactor_incident"), 1, tmp_path)
    went = drill.run(contracts=False)
    evidence = evidence_of(drill.job.output, went.cause, went.health)
    found = triage_of(with_settings(evidence, drill.job.training.model_dump(mode="json")), drill.build, replay=True)
    assert found.top is not None
    assert (found.top.cause, found.top.verdict) == ("unnormalised_embedding_and_unclipped_weights", "cures")
    assert found.top.location == "ad × click"
    assert "both are needed" in found.top.evidence[-1]
    assert found.sure
    by_name = {remedy.name: remedy for remedy in found.remedies}
    assert by_name["clip the norm of all gradients to 10"].verdict == "masks"
    # Three epochs of a hundred steps, all of them finite and steady.
    cured = by_name["start the embeddings near 0 and limit the weights"]
    assert cured.verdict == "cures"
    assert cured.found.startswith("with it: finite")
    assert "without: not finite" in cured.found


def test_a_training_that_no_longer_breaks_says_nothing_of_remedies(tmp_path: Path) -> None:
    drill = prepare_drill(None, 1, tmp_path)
    guess = Triage(hypotheses=(Hypothesis(cause="huge_lr", score=0.9, evidence=("a guess",)),), sure=True)
    found = with_replays(guess, drill.build, tmp_path / "replays", broke_at=5)
    assert found.remedies == ()
    assert not found.sure
    assert "does not break (it broke at step 5" in found.compared[0]


def executed(job) -> tuple[int, dict[str, Any]]:
    process = ProcessContext(
        rank=0, local_rank=0, world=1, under_pipes=False, clock=lambda: 0.0, milliseconds=lambda: 0, cancelled=lambda: False
    )  # fmt: skip
    result: dict[str, Any] = {"warnings": []}
    return execute(job, False, process, result), result


def own_finding(result: dict[str, Any]) -> dict[str, Any]:
    return next(found for found in result["findings"] if found["name"] == "triage")


def test_a_training_that_finished_writes_its_triage_too(tmp_path: Path) -> None:
    drill = prepare_drill(None, 1, tmp_path)
    code, result = executed(drill.job)
    assert (code, own_finding(result)["severity"]) == (FINISHED, "ok")
    assert "triage" not in result["strongest"]
    assert json.loads((drill.job.output / "triage.json").read_text())["unknown"]


def test_of_a_finished_training_triage_finds_what_is_wrong_with_its_rows(tmp_path: Path) -> None:
    drill = prepare_drill(fault_named("feature_of_another_row"), 1, tmp_path)
    code, result = executed(drill.job)
    found = own_finding(result)
    assert (code, found["severity"], found["tensor"]) == (FINISHED, "error", "rating")
    assert "feature_permuted at rating" in found["message"]
    assert result["strongest"][-1] == "triage"
    assert result["health"]["triage_score"] > 0.75


def test_what_triage_is_sure_of_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(
        json.dumps({"status": "finished", "findings": [triage_finding(SURE).to_dict()], "strongest": ["triage"]})
    )
    outcome = TrainingOutcome.read(tmp_path / "result.json")
    reason = outcome.blocking_reason(blocking_findings())
    assert reason is not None
    assert reason.startswith("Training finished, but triage is sure of leak at rating")
    results = {found.check_name: found for found in check_results("ranker", TrainingEvidence(outcome.findings))}
    assert (results["triage"].passed, results["triage"].severity) == (False, dg.AssetCheckSeverity.ERROR)


def test_a_training_without_a_triage_has_no_failed_check() -> None:
    results = {found.check_name: found for found in check_results("ranker", TrainingEvidence({}))}
    assert results["triage"].passed


def stopped_by_a_sum(job, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    inner = steps.multi_task_loss

    def summed(sums, counts, loss_weights):
        return (sums * loss_weights).sum(), inner(sums, counts, loss_weights)[1]

    monkeypatch.setattr(steps, "multi_task_loss", summed)
    code, result = executed(job)
    assert code == STOPPED
    assert result["warnings"] == []
    return result


def test_a_stopped_training_writes_its_triage(job, monkeypatch: pytest.MonkeyPatch) -> None:
    result = stopped_by_a_sum(job, monkeypatch)
    assert own_finding(result)["message"].startswith("triage is sure of loss_sum")
    written = json.loads((job.output / "triage.json").read_text())
    assert written["hypotheses"][0]["cause"] == "loss_sum"
    assert "the built training" in written["looked_at"]
    # Whoever looks later, with code that is right again, is told what it found.
    found = triage_of(evidence_of(job.output))
    assert found.top is not None
    assert found.top.cause == "loss_sum"
    assert "the triage of the training itself" in found.looked_at


def test_a_triage_that_fails_does_not_hide_the_stop(job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr("ctr_pipeline.training.own_triage.triage_of", broken)
    with pytest.raises(AssertionError, match="no triage: RuntimeError: no"):
        stopped_by_a_sum(job, monkeypatch)
    assert not (job.output / "triage.json").exists()


def test_a_failed_step_alone_tells_the_fault_of_its_loss(job, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_by_a_sum(job, monkeypatch)
    assert "loss_sum" in {clue.cause for clue in bundle_clues(job.output / "failed_step")}


def test_a_job_is_built_again_without_its_reports(job) -> None:
    trainer = builder_of(job)(job.output / "again")
    assert trainer.job.mlflow is None
    assert trainer.files.steps.parent == job.output / "again"
    assert trainer.step == 0


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda m: m.head.register_forward_hook(lambda _, __, z: torch.sigmoid(z)), "double_sigmoid"),
        (lambda m: m.head.register_forward_hook(lambda _, __, z: 3 * torch.tanh(z)), "bounded_logits"),
        (lambda m: m.tower.register_forward_hook(lambda _, __, h: h * torch.rand_like(h)), "random_in_evaluation"),
        (lambda m: m.tower.register_forward_hook(lambda _, __, h: h + h.mean(0, keepdim=True)), "batch_mixing"),
        (lambda m: m.numeric.register_forward_pre_hook(lambda _, given: (given[0] * torch.tensor([1.0, 0.0]),)), "feature_ignored"),
    ],
)  # fmt: skip
def test_the_forward_pass_of_the_untrained_model_tells_its_fault(change, cause: str, tmp_path: Path) -> None:
    trainer = prepare_drill(None, 1, tmp_path).build(tmp_path / "run")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    change(trainer.model)
    found = max(static_clues(trainer), key=lambda clue: clue.weight)
    assert found.cause == cause
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
