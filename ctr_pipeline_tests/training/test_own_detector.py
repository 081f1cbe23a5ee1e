"""A detector of one's own: one class and one registration are enough."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pytest
import torch

from ctr_pipeline.deployment.retrain_files import TrainingOutcome
from ctr_pipeline.gradients import Finding, StepStart, StepView, register_detector, unregister_detector
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.gradient_health import TrainingEvidence
from ctr_pipeline.training.entry import _write_result
from ctr_pipeline.training.execution import FINISHED, ProcessContext, execute
from ctr_pipeline.training.job_spec import TrainingError
from ctr_pipeline.training.stopping import Cancelled


class LogitsInRange:
    """Notes the largest logit of the steps that are measured in detail."""

    name: ClassVar[str] = "logits_in_range"
    question: ClassVar[str] = "Logits stayed below a thousandth."
    blocking: ClassVar[bool] = True

    def __init__(self) -> None:
        self._steps, self._largest = 0, 0.0

    def begin(self, start: StepStart) -> None:
        self._steps += start.probed

    def observe(self, step: StepView) -> None:
        if step.probe is not None and step.probe.loss is not None:
            step.read(step.probe.loss.logits.abs().max(), self._receive)

    def _receive(self, values: list[float]) -> None:
        self._largest = max(self._largest, *values)

    def finding(self) -> Finding:
        message = f"the largest logit of {self._steps} steps was {self._largest:.3g}"
        return Finding("error" if self._largest > 1e-3 else "ok", message, {"largest_logit": self._largest})

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "largest": self._largest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self._largest = state["steps"], state["largest"]


@pytest.fixture
def registered() -> Iterator[None]:
    register_detector(LogitsInRange)
    yield
    unregister_detector(LogitsInRange.name)


@pytest.fixture
def free_algorithms() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def train(job) -> Path:
    process = ProcessContext(
        rank=0, local_rank=0, world=1, under_pipes=False, clock=lambda: 0.0, milliseconds=lambda: 0,
        cancelled=lambda: False,
    )  # fmt: skip
    result: dict[str, Any] = {"status": "running", "warnings": []}
    assert execute(job, False, process, result) == FINISHED
    _write_result(job.output, result)
    return job.output / "result.json"


@pytest.mark.usefixtures("registered", "free_algorithms")
def test_its_finding_becomes_a_result_and_a_check(job) -> None:
    outcome = TrainingOutcome.read(train(job))
    finding = outcome.findings["logits_in_range"]
    assert finding["severity"] == "error"
    assert finding["message"].startswith("the largest logit of 5 steps was ")
    assert outcome.facts["health"]["largest_logit"] > 1e-3
    assert outcome.facts["health"]["nonfinite"] == 0

    spec = next(spec for spec in check_specs("ranker") if spec.name == "logits_in_range")
    assert (spec.blocking, spec.description) == (True, "Logits stayed below a thousandth.")
    results = {result.check_name: result for result in check_results("ranker", TrainingEvidence(outcome.findings))}
    assert results["logits_in_range"].passed is False
    assert results["logits_in_range"].severity == dg.AssetCheckSeverity.ERROR
    assert results["logits_in_range"].description == finding["message"]
    assert results["nonfinite"].passed


@pytest.mark.usefixtures("registered")
def test_its_state_is_in_the_checkpoint(job, make_trainer) -> None:
    whole, parts = (job.model_copy(update={"output": job.output.parent / name}) for name in ("whole", "parts"))
    expected = make_trainer(whole).run(False)
    with pytest.raises(Cancelled):
        make_trainer(parts, stop_after=14).run(False)
    assert make_trainer(parts).run(True).health == expected.health


def test_a_checkpoint_without_its_state_is_refused(job, make_trainer) -> None:
    make_trainer(job).run(False)
    register_detector(LogitsInRange)
    try:
        trainer = make_trainer(job)
    finally:
        unregister_detector(LogitsInRange.name)
    with pytest.raises(TrainingError, match="differs in detectors"):
        trainer.run(True)


def test_without_it_nothing_is_left() -> None:
    assert "logits_in_range" not in {spec.name for spec in check_specs("ranker")}


def test_a_training_that_did_not_know_it_fails_its_check() -> None:
    register_detector(LogitsInRange)
    try:
        results = check_results("ranker", TrainingEvidence({}))
    finally:
        unregister_detector(LogitsInRange.name)
    missing = next(result for result in results if result.check_name == "logits_in_range")
    assert (missing.passed, missing.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "did not know this detector" in str(missing.description)
