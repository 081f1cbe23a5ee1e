"""Contracts before training let healthy datasets of every form pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr_pipeline.datasets import SPLITS, PackedSplit, write_split
from ctr_pipeline.features.layout import Layout
from ctr_pipeline.spec.losses import DfmDiscrete, DfmWeibull, Fsiw, LossSection
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.stopping import Cancelled

DAY = 86_400.0
Changed = tuple[Layout, PackedSplit]


def no_numbers(layout: Layout, rows: PackedSplit) -> Changed:
    return replace(layout, numeric=()), replace(rows, numeric=rows.numeric[:, :0])


def no_ids(layout: Layout, rows: PackedSplit) -> Changed:
    return replace(layout, ids=()), replace(rows, ids=rows.ids[:, :0])


def one_task(layout: Layout, rows: PackedSplit) -> Changed:
    own = replace(rows, labels=rows.labels[:, :1], weights=rows.weights[:, :1])
    return replace(layout, tasks=("click",), parents=(-1,)), own


def four_tasks(layout: Layout, rows: PackedSplit) -> Changed:
    labels = np.concatenate([rows.labels, rows.labels], axis=1)
    own = replace(rows, labels=labels, weights=np.concatenate([rows.weights, rows.weights], axis=1))
    return replace(layout, tasks=("click", "cart", "save", "buy"), parents=(-1, 0, -1, 2)), own


def constant_columns(layout: Layout, rows: PackedSplit) -> Changed:
    numeric, ids = rows.numeric.copy(), rows.ids.copy()
    numeric[:, 1], ids[:, 0] = 0.0, 2
    return layout, replace(rows, numeric=numeric, ids=ids)


def mostly_missing(layout: Layout, rows: PackedSplit) -> Changed:
    numeric = rows.numeric.copy()
    numeric[np.arange(len(rows)) % 500 > 0, 1] = np.nan
    numeric[np.arange(len(rows)) % 500 == 0, 1] = 7.0
    return layout, replace(rows, numeric=numeric)


def few_positives(layout: Layout, rows: PackedSplit) -> Changed:
    labels = rows.labels.copy()
    labels[:, 1] = np.where(np.arange(len(rows)) % 333 == 5, 1, 0)
    labels[labels[:, 1] == 1, 0] = 1
    return layout, replace(rows, labels=labels)


def no_label_of_a_task(layout: Layout, rows: PackedSplit) -> Changed:
    labels = rows.labels.copy()
    labels[:, 1] = -1
    return layout, replace(rows, labels=labels)


def inverse_propensities(layout: Layout, rows: PackedSplit) -> Changed:
    weights = np.random.default_rng(1).pareto(1.2, rows.weights.shape).astype(np.float32)
    return layout, replace(rows, weights=weights / weights.mean())


def open_labels(layout: Layout, rows: PackedSplit) -> Changed:
    rng = np.random.default_rng(2)
    labels = rows.labels.copy()
    is_open = rng.random(labels.shape) < 0.3
    delay = np.where(labels == 1, rng.exponential(DAY, labels.shape), np.nan).astype(np.float32)
    elapsed = rng.uniform(0, 5 * DAY, labels.shape).astype(np.float32)
    delay[is_open & (delay > elapsed)] = np.nan
    labels[is_open] = -1
    return layout, replace(rows, labels=labels, elapsed=elapsed, delay=delay)


def check(job: Any, make_trainer: Callable[..., Trainer], directory: Path, layout: Layout, rows: PackedSplit) -> None:
    directory.mkdir()
    (directory / "layout.json").write_text(layout.to_json())
    for name in SPLITS:
        write_split(directory, name, rows)
    trainer = make_trainer(job.model_copy(update={"dataset": directory}), stop_after=6)
    with pytest.raises(Cancelled):
        trainer.run(False)


@pytest.mark.parametrize(
    "change",
    [
        no_numbers, no_ids, one_task, four_tasks, constant_columns, mostly_missing, few_positives, no_label_of_a_task,
        inverse_propensities,
    ],
)  # fmt: skip
def test_healthy_datasets_pass(job, make_trainer, make_rows, layout, tmp_path: Path, change: Any) -> None:
    check(job, make_trainer, tmp_path / "own", *change(layout, make_rows(1000, 7)))


@pytest.mark.parametrize("loss", [DfmDiscrete(), DfmWeibull(), Fsiw()])
def test_losses_of_open_labels_pass(job, make_trainer, make_rows, layout, tmp_path: Path, loss: LossSection) -> None:
    own = job.model_copy(update={"objectives": {task: Binary(loss=loss) for task in layout.tasks}})
    check(own, make_trainer, tmp_path / "own", *open_labels(layout, make_rows(1000, 7)))
