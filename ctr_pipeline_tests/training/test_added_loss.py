"""A loss from outside: one class and one registration, named in a spec, trained by the real loop and process."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from ctr_pipeline.losses import register_loss
from ctr_pipeline.losses.masking import binary_target, keep_known, sum_known
from ctr_pipeline.spec import parse_spec
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.stopping import Stopped


class Brier:
    """w · (σ(z) − y)²."""

    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return sum_known((torch.sigmoid(logits) - binary_target(labels, logits)) ** 2, labels, weights)

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor | None:
        p = torch.sigmoid(logits)
        return keep_known(2 * (p - binary_target(labels, logits)) * p * (1 - p) * weights, labels)


class NoFormula(Brier):
    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor | None:  # noqa: ARG002
        return None


class WrongFormula(Brier):
    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor | None:
        right = super().logit_gradient(logits, labels, weights)
        return None if right is None else right * 1.01


@pytest.fixture(autouse=True)
def added(own_losses: None) -> None:
    register_loss("brier", Brier)
    register_loss("brier_with_a_wrong_formula", WrongFormula)
    register_loss("brier_without_a_formula", NoFormula)


def with_loss(job: TrainingJob, project: Path, *kinds: str) -> TrainingJob:
    """The job with the objectives of a spec whose first tasks have losses of these kinds."""
    content = yaml.safe_load((project / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    for task, kind in zip(content["tasks"], kinds, strict=False):
        task["objective"] = {"kind": "binary", "loss": {"kind": kind}}
    tasks = parse_spec(yaml.safe_dump(content), where="added").tasks
    objectives = {name: task.objective for name, task in zip(("click", "cart"), tasks, strict=False)}
    return job.model_copy(update={"objectives": objectives})


@pytest.mark.parametrize("kinds", [("brier", "brier"), ("brier", "focal"), ("binary_cross_entropy", "brier")])
def test_it_trains(job: TrainingJob, project: Path, make_trainer: Callable[..., Any], kinds: tuple[str, str]) -> None:
    result = make_trainer(with_loss(job, project, *kinds)).run(False)
    # Focal loss is no proper score: before calibration its log loss may be worse than that of a constant.
    assert result.best_validation < (1.2 if "focal" in kinds else 1)
    steps = [json.loads(line) for line in (job.output / "steps.jsonl").read_text().splitlines()]
    checked = result.health.finding("loss_gradient")
    assert (checked.severity, "differed" in checked.message) == ("ok", True)
    if kinds[0] == "brier":
        assert max(step["loss_click"] for step in steps) < 0.5  # the cross-entropy starts at 0.6


def test_it_trains_without_a_formula(job: TrainingJob, project: Path, make_trainer: Callable[..., Any]) -> None:
    result = make_trainer(with_loss(job, project, "brier_without_a_formula", "brier")).run(False)
    assert result.best_validation < 1
    assert result.health.finding("loss_gradient").numbers["loss_gradient_error"] < 1e-3


def test_a_gradient_that_its_formula_does_not_give_is_an_error(
    job: TrainingJob, project: Path, make_trainer: Callable[..., Any]
) -> None:
    with pytest.raises(Stopped) as caught:
        make_trainer(with_loss(job, project, "focal", "brier_with_a_wrong_formula")).run(False)
    assert (caught.value.cause.kind, caught.value.cause.step, caught.value.cause.leading) == (
        "health",
        0,
        "loss_gradient",
    )
    assert caught.value.health.finding("loss_gradient").severity == "error"
    kinds = ("brier_without_a_formula", "brier_without_a_formula")
    without = make_trainer(with_loss(job, project, *kinds)).run(False).health.finding("loss_gradient")
    assert (without.severity, without.message) == ("ok", "not checked: the loss gives no analytic gradient")


def test_a_checkpoint_of_another_loss_is_refused(
    job: TrainingJob, project: Path, make_trainer: Callable[..., Any]
) -> None:
    from ctr_pipeline.training.job_spec import TrainingError

    make_trainer(with_loss(job, project, "brier")).run(False)
    with pytest.raises(TrainingError, match="differs in objective of cart, objective of click"):
        make_trainer(job).run(True)


EXTENSION = """
    from ctr_pipeline.losses import register_loss


    def build():
        from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy

        return WeightedBinaryCrossEntropy()


    register_loss("from_another_package", build)
"""


def start(job: TrainingJob, packages: Path, module: str) -> "subprocess.CompletedProcess[str]":
    """The trainer where a package with ``module`` as an extension is installed."""
    (packages / "other_losses.py").write_text(textwrap.dedent(module))
    information = packages / "other_losses-1.0.dist-info"
    information.mkdir(exist_ok=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: other-losses\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[ctr_pipeline.extensions]\nlosses = other_losses\n")
    path = os.pathsep.join([str(packages), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    content = json.loads(job.model_dump_json())
    content["objectives"] = {"click": {"kind": "binary", "loss": {"kind": "from_another_package"}}}
    job.output.mkdir(parents=True, exist_ok=True)
    (job.output / "job.json").write_text(json.dumps(content))
    return subprocess.run(
        [sys.executable, "-m", "ctr_pipeline.training.entry", "--job", str(job.output / "job.json")],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_trainer_process_knows_the_losses_of_installed_packages(
    job: TrainingJob, tmp_path: Path, make_trainer: Callable[..., Any]
) -> None:
    done = start(job, tmp_path, EXTENSION)
    assert done.returncode == 0, done.stderr
    plain = job.model_copy(update={"output": tmp_path / "plain"})
    make_trainer(plain).run(False)
    # Tasks of different kinds are computed apart, with equal arithmetic.
    assert (job.output / "model.pt").read_bytes() == (plain.output / "model.pt").read_bytes()


def test_a_package_that_cannot_be_imported_is_named(job: TrainingJob, tmp_path: Path) -> None:
    done = start(job, tmp_path, "import absent_package")
    assert done.returncode == 2
    assert "extension 'losses' (other_losses) of other-losses cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_of_a_package_that_is_not_installed_is_refused(job: TrainingJob, tmp_path: Path) -> None:
    done = start(job, tmp_path, "")
    assert done.returncode == 2
    assert "objectives" in done.stderr
    assert "'fsiw'; found 'from_another_package'" in done.stderr
