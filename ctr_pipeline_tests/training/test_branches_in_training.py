"""Branches in a training: what the validation says of each, which are stopped, and that resumed and refitted runs agree."""

import json
import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr_pipeline.datasets import PackedDataset, PackedSplit, write_split
from ctr_pipeline.ranker import load_ranker
from ctr_pipeline.ranker.branches import FusedOutputs
from ctr_pipeline.spec.model import Model
from ctr_pipeline.training.execution import FAILED, FINISHED, ProcessContext, execute
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.stopping import Stopped

BRANCHES = [
    {"name": "deep", "hidden": [16, 8]},
    {"name": "crossed", "hidden": [], "interactions": ["cross"]},
    {"name": "masked", "hidden": [], "interactions": [{"kind": "mask_net", "width": 8, "mask_width": 8}]},
]


@pytest.fixture
def make_job(job: TrainingJob, make_packed: Callable[[str, int], Path], tmp_path: Path):
    """A job with branches whose dataset has a part to refit on."""
    dataset = make_packed("packed_for_branches", 600)
    parts = [PackedDataset.open(dataset).splits[name] for name in ("train", "validation")]
    joined = {name: np.concatenate([part.arrays()[name] for part in parts]) for name in parts[0].arrays()}
    write_split(dataset, "refit", PackedSplit(**joined))

    def make(output: str = "out", kind: str = "gated", **fusion: Any) -> TrainingJob:
        content = {"embedding_dim": 4, "dropout": 0.1, "embedding_dropout": 0.1, "branches": BRANCHES}
        model = Model.model_validate(content | {"fusion": {"kind": kind, **fusion}})
        training = job.training.model_copy(update={"epochs": 3, "learning_rate": 0.003})
        changed = {"dataset": dataset, "model": model, "training": training, "output": tmp_path / output}
        return job.model_copy(update=changed)

    return make


def run(job: TrainingJob, *, resume: bool = False, cancelled_at: int | None = None) -> tuple[int, dict[str, Any]]:
    asked, result = count(), {"status": "running", "warnings": []}
    process = ProcessContext(
        rank=0, local_rank=0, world=1, under_pipes=False, clock=lambda: 0.0, milliseconds=lambda: 0,
        cancelled=lambda: cancelled_at is not None and next(asked) >= cancelled_at,
    )  # fmt: skip
    return execute(job, resume, process, result), result


def validations(job: TrainingJob) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.output / "validation.jsonl").read_text().splitlines()]


def head_of(job: TrainingJob, name: str) -> FusedOutputs:
    head = load_ranker(job.output / name, PackedDataset.open(job.dataset).layout, job.model).head
    assert isinstance(head, FusedOutputs)
    return head


@pytest.mark.parametrize("kind", ["average", "gated", "logistic"])
def test_each_branch_has_its_own_entropy(make_job, kind: str) -> None:
    job = make_job(kind=kind)
    job = job.model_copy(update={"training": job.training.model_copy(update={"learning_rate": 0.02})})
    code, result = run(job)
    assert code == FINISHED
    assert result["health"]["loss_gradient_error"] < 1e-3
    assert result["health"]["nonfinite"] == 0
    dataset = PackedDataset.open(job.dataset)
    ranker, split = load_ranker(job.output / "before_refit.pt", dataset.layout, job.model), dataset.splits["validation"]
    best = validations(job)[result["best_epoch"]]
    with torch.no_grad():
        inputs = ranker.encode(torch.tensor(split.numeric), torch.tensor(split.ids))
        own = ranker.branch_logits(ranker.hidden(inputs), inputs)
    assert [branch["name"] for branch in result["branches"]] == ["deep", "crossed", "masked"]
    for branch, logits in zip(result["branches"], own, strict=True):
        entropies = []
        for task, name in enumerate(dataset.layout.tasks):
            known = split.labels[:, task] >= 0
            y, z = split.labels[known, task], logits[:, task].double().numpy()[known]
            rate = y.mean()
            entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
            entropies.append(float(np.mean(np.logaddexp(0, z) - y * z)) / entropy)
            assert branch[f"ne_{name}"] == best[f"branch_{branch['name']}_ne_{name}"]
            assert branch[f"ne_{name}"] == pytest.approx(entropies[-1], rel=1e-5)
        assert branch["ne"] == pytest.approx(np.mean(entropies), rel=1e-5)
        assert branch["stopped_after_epoch"] is None
        # By itself each branch is a model: with branches that lean on each other none would be.
        assert branch["ne_click"] < 1.0
    assert all(line["stopped_branches"] == [] for line in validations(job))


def test_weak_branches_are_stopped_also_where_the_model_is_refitted(make_job) -> None:
    job = make_job(stop="drop", margin=0.0)
    code, result = run(job)
    assert code == FINISHED
    first = validations(job)[0]
    means = {name: first[f"branch_{name}_ne"] for name in ("deep", "crossed", "masked")}
    best = min(means, key=lambda name: means[name])
    weak = [name for name in means if name != best]
    assert first["stopped_branches"] == weak
    assert [branch["stopped_after_epoch"] for branch in result["branches"]] == [
        None if name == best else 0 for name in means
    ]
    # The weights of an epoch are stored before its stops.
    stopped = [name == best for name in means] if result["best_epoch"] else [True] * 3
    for name in ("before_refit.pt", "model.pt"):
        assert head_of(job, name).going_on() == stopped, name
    never = make_job("never", margin=0.0)
    run(never)
    assert validations(never)[1]["stopped_branches"] == []
    assert validations(never)[1]["ne"] != validations(job)[1]["ne"]


@pytest.mark.parametrize("cancelled_at", [9, 15, 26])
def test_a_resumed_run_stops_the_same_branches(make_job, cancelled_at: int) -> None:
    whole, parts = (make_job(name, stop="drop", margin=0.0) for name in ("whole", "parts"))
    assert run(whole)[0] == FINISHED
    assert run(parts, cancelled_at=cancelled_at)[0] == FAILED
    torch.rand(5)
    code, result = run(parts, resume=True)
    assert code == FINISHED
    for name in (
        "before_refit.pt",
        "model.pt",
        "validation.jsonl",
        "steps.jsonl",
        "refit/steps.jsonl",
        "scores/test.npy",
    ):
        assert (parts.output / name).read_bytes() == (whole.output / name).read_bytes(), name
    assert [branch["stopped_after_epoch"] for branch in result["branches"]].count(0) == 2


def test_a_fault_in_a_branch_is_placed_there(make_job, make_trainer) -> None:
    trainer = make_trainer(make_job())
    with torch.no_grad():
        trainer.model.get_parameter("interactions.crossed_cross_0.crosses.0.weight")[2, 1] = math.nan
    with pytest.raises(Stopped) as stopped:
        trainer.run(False)
    assert stopped.value.cause.tensor == "interactions.crossed_cross_0.crosses.0.weight"
