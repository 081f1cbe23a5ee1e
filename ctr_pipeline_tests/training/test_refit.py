"""The second fit: on the later rows too, for the epochs that were best, and continued where it was stopped."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr_pipeline.datasets import PackedDataset, PackedSplit, write_split
from ctr_pipeline.gradients import HealthReport
from ctr_pipeline.gradients.core.findings import Finding, NamedFinding, Severity
from ctr_pipeline.ranker import load_ranker
from ctr_pipeline.training.dataloader import Shard
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.execution import FAILED, FINISHED, STOPPED, ProcessContext, execute
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.plan import plan_training
from ctr_pipeline.training.training_result import TrainingResult, result_content


def joined(dataset: PackedDataset) -> PackedSplit:
    parts = [dataset.splits[name] for name in ("train", "validation")]
    return PackedSplit(**{name: np.concatenate([p.arrays()[name] for p in parts]) for name in parts[0].arrays()})


@pytest.fixture
def refitting(job: TrainingJob, make_packed: Callable[[str, int], Path], tmp_path: Path) -> TrainingJob:
    directory = make_packed("refitting", 600)
    write_split(directory, "refit", joined(PackedDataset.open(directory)))
    training = job.training.model_copy(update={"epochs": 3, "batch_size": 50})
    return job.model_copy(update={"dataset": directory, "output": tmp_path / "refit", "training": training})


def run(job: TrainingJob, *, resume: bool = False, cancelled_at: int | None = None) -> tuple[int, dict[str, Any]]:
    asked, result = count(), {"status": "running", "warnings": []}
    process = ProcessContext(
        rank=0, local_rank=0, world=1, under_pipes=False, clock=lambda: 0.0, milliseconds=lambda: 0,
        cancelled=lambda: cancelled_at is not None and next(asked) >= cancelled_at,
    )  # fmt: skip
    return execute(job, resume, process, result), result


def test_the_model_is_that_of_the_later_rows_and_validation_is_judged_without_them(
    job: TrainingJob, refitting: TrainingJob, tmp_path: Path
) -> None:
    code, result = run(refitting)
    assert code == FINISHED
    assert result["refit"]["epochs"] == result["best_epoch"] + 1
    assert (result["steps"], result["refit"]["steps"]) == (36, 16 * result["refit"]["epochs"])
    assert result["refit"]["rows"] == 800 * result["refit"]["epochs"]
    output = refitting.output
    dataset = PackedDataset.open(refitting.dataset)
    for model, split in (("before_refit.pt", "validation"), ("model.pt", "calibration"), ("model.pt", "test")):
        rows = dataset.splits[split]
        ranker = load_ranker(output / model, dataset.layout, refitting.model)
        with torch.no_grad():
            expected = ranker(*(torch.from_numpy(np.array(a)) for a in (rows.numeric, rows.ids))).numpy()
        np.testing.assert_allclose(np.load(output / "scores" / f"{split}.npy"), expected, atol=1e-6)

    # The first fit is that of a dataset without the part; the second one of a dataset whose training rows it is.
    for name in ("plain", "all"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "layout.json").write_bytes((refitting.dataset / "layout.json").read_bytes())
        for split, rows in dataset.splits.items():
            if split != "refit":
                write_split(folder, split, dataset.splits["refit"] if (name, split) == ("all", "train") else rows)
    plain = refitting.model_copy(update={"dataset": tmp_path / "plain", "output": tmp_path / "plain_out"})
    assert run(plain)[1]["best_epoch"] == result["best_epoch"]
    first, second = (
        load_ranker(path, dataset.layout, refitting.model).state_dict()
        for path in (plain.output / "model.pt", output / "before_refit.pt")
    )
    assert all(torch.equal(values, second[name]) for name, values in first.items())
    # The second one has the learning rates of the first up to its best epoch.
    whole = plain.model_copy(update={"dataset": tmp_path / "all", "output": tmp_path / "all_out"})
    opened = PackedDataset.open(whole.dataset)
    plan = plan_training(whole.training, whole.model, 600, 1)
    group = ProcessGroup(Shard(), torch.device("cpu"))
    epochs = result["best_epoch"] + 1
    again = Trainer(whole, opened, plan, group, lambda: 0.0, lambda: False, stop_after=epochs)
    again.run(resume=False)
    assert not (whole.output / "refit").exists()
    second = load_ranker(output / "model.pt", dataset.layout, refitting.model).state_dict()
    assert all(torch.equal(values, second[name]) for name, values in again.model.state_dict().items())


@pytest.mark.parametrize("cancelled_at", [10, 37, 45, 50])
def test_a_run_that_was_stopped_in_either_fit_goes_on(
    refitting: TrainingJob, tmp_path: Path, cancelled_at: int
) -> None:
    _, expected = run(refitting)
    other = refitting.model_copy(update={"output": tmp_path / "again"})
    code, _ = run(other, cancelled_at=cancelled_at)
    assert code == FAILED
    assert (other.output / "refit").is_dir() == (cancelled_at >= 40)
    assert not (other.output / "scores" / "test.npy").exists()
    code, result = run(other, resume=True)
    assert (code, result["model_sha256"]) == (FINISHED, expected["model_sha256"])
    for name in ("steps.jsonl", "refit/steps.jsonl"):
        assert (other.output / name).read_bytes() == (refitting.output / name).read_bytes()
    for name in ("validation", "calibration", "test"):
        ours, theirs = (np.load(out.output / "scores" / f"{name}.npy") for out in (other, refitting))
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_from_the_start_takes_nothing_of_an_earlier_second_fit(refitting: TrainingJob) -> None:
    first = run(refitting)[1]
    other = refitting.model_copy(update={"seed": 4})
    code, second = run(other)
    assert code == FINISHED
    assert first["model_sha256"] != second["model_sha256"]
    # Nor one that was to be continued, but had no checkpoint of its first fit.
    (refitting.output / "checkpoint.pt").unlink()
    assert run(refitting, resume=True)[1]["model_sha256"] == first["model_sha256"]


def test_a_value_that_is_not_finite_stops_the_second_fit_too(refitting: TrainingJob) -> None:
    numeric = refitting.dataset / "refit" / "numeric.npy"
    values = np.load(numeric)
    values[-1, 0] = np.inf
    np.save(numeric, values)
    code, result = run(refitting)
    assert (code, result["status"]) == (STOPPED, "stopped")
    assert list((refitting.output / "failed_step").iterdir())
    assert not (refitting.output / "scores" / "test.npy").exists()


def fitted(*severities: Severity, digest: str) -> TrainingResult:
    findings = tuple(
        NamedFinding(name=f"detector{n}", finding=Finding(severity, f"{digest} {severity}"))
        for n, severity in enumerate(severities)
    )
    return TrainingResult(
        best_epoch=1, best_validation=0.8, epochs=3, steps=9, rows=90, seconds=2.0,
        health=HealthReport(steps=9, findings=findings), model_sha256=digest,
    )  # fmt: skip


def test_a_finding_is_that_of_the_fit_in_which_it_is_worse() -> None:
    first, second = fitted("ok", "ok", "error", "warn", digest="a"), fitted("ok", "error", "warn", "warn", digest="b")
    alone = result_content(first, None)
    assert alone["model_sha256"] == "a"
    assert "refit" not in alone
    both = result_content(first, second)
    assert (both["model_sha256"], both["best_epoch"], both["refit"]["steps"]) == ("b", 1, 9)
    assert [(found["severity"], found["message"]) for found in both["findings"]] == [
        ("ok", "a ok"),
        ("error", "in the refit, b error"),
        ("error", "a error"),
        ("warn", "a warn"),
    ]
