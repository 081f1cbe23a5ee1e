"""Gradients of the tasks in blocks of rows are those of autograd on each block by itself."""

import numpy as np
import torch

from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.losses.multi_task import TaskObjectives
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.ranker.sharing import shared_parameters
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training import task_gradients
from ctr_pipeline.training.task_gradients import block_products, task_gradient_products

OBJECTIVES = TaskObjectives([Binary(), Binary()])


def test_products_are_those_of_each_blocks_gradient(layout, make_rows, monkeypatch) -> None:
    monkeypatch.setattr(task_gradients, "PIECE", 30)
    monkeypatch.setattr(task_gradients, "COLUMNS", 50)
    rows = make_rows(300, 4)
    model = build_ranker(layout, Model(embedding_dim=4, hidden=[8]), 1).eval()
    chosen = np.random.default_rng(1).permutation(200).astype(np.int64)
    found = block_products(model, OBJECTIVES, rows, chosen, blocks=4)
    shared = list(shared_parameters(model).values())
    counts = (torch.from_numpy(rows.labels[chosen]) >= 0).sum(dim=0)
    gradients = []
    for task in range(2):
        for block in np.array_split(chosen, 4):
            logits = model(torch.from_numpy(rows.numeric[block]), torch.from_numpy(rows.ids[block]))
            labels, weights = torch.from_numpy(rows.labels[block]), torch.from_numpy(rows.weights[block])
            loss = OBJECTIVES.task_sums(logits, labels, weights)[task] / counts[task]
            own = torch.autograd.grad(loss, shared)
            gradients.append(torch.cat([gradient.flatten() for gradient in own]).double())
    flat = torch.stack(gradients)
    np.testing.assert_allclose(found.reshape(8, 8), (flat @ flat.T).numpy(), rtol=1e-4, atol=1e-9)


def test_shared_are_the_dense_weights_that_several_tasks_read(layout) -> None:
    section = {"kind": "ple", "gate_on": "parent"}
    model = build_ranker(layout, Model.model_validate({"hidden": [8], "multi_task": section}), 1)
    names = set(shared_parameters(model))
    assert {name.rsplit(".", 1)[0] for name in names} == {
        "tower.0.linear", "tower.0.norm",
        "multi_task.head.shared_experts.0.0.0.linear", "multi_task.head.shared_experts.0.0.0.norm",
        "multi_task.head.shared_experts.0.1.0.linear", "multi_task.head.shared_experts.0.1.0.norm",
    }  # fmt: skip
    from dataclasses import replace

    single = replace(layout, tasks=("click",), parents=(-1,))
    assert shared_parameters(build_ranker(single, Model(hidden=[8]), 1)) == {}


def test_a_model_that_shares_nothing_dense_has_no_products(job, make_trainer) -> None:
    plain = job.model_copy(update={"model": Model(embedding_dim=4, hidden=[])})
    make_trainer(plain).run(False)
    products, rows, parameters = task_gradient_products(plain)
    assert (products.size, parameters) == (0, 0)
    assert rows == 1000


def test_a_finished_training_is_measured_on_its_own_rows(job, make_trainer) -> None:
    make_trainer(job).run(False)
    products, rows, parameters = task_gradient_products(job, rows=400)
    assert products.shape == (2, 16, 2, 16)
    assert rows == 400
    dataset = PackedDataset.open(job.dataset)
    ranker = build_ranker(dataset.layout, job.model, 0)
    assert parameters == sum(parameter.numel() for parameter in ranker.tower.parameters())
    again, _, _ = task_gradient_products(job, rows=400)
    assert np.array_equal(products, again)
