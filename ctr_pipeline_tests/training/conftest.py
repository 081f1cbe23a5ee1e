"""A small packed dataset with a signal to learn, and trainers on it."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr_pipeline.datasets import SPLITS, PackedDataset, PackedSplit, write_split
from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.training import Training
from ctr_pipeline.training.callbacks import Callback
from ctr_pipeline.training.dataloader import Shard
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.plan import known_outcomes, plan_training

LAYOUT = Layout(
    numeric=(
        NumericColumn("price", "dense", "signed_log1p", 3.0, True, 1.0, 0.8),
        NumericColumn("rating", "dense", "none", 0.0, False, 0.0, 1.0),
    ),
    ids=(
        IdColumn("ad", "categorical", 60, 4),
        IdColumn("query", "categorical", 40, 4),
        IdColumn("device", "contextual", 6, 2),
    ),
    tasks=("click", "cart"),
    parents=(-1, 0),
)


def make_split(rows: int, seed: int) -> PackedSplit:
    rng = np.random.default_rng(seed)
    numeric = np.stack([rng.lognormal(1.0, 1.0, rows), rng.normal(size=rows)], axis=1).astype(np.float32)
    numeric[rng.random(rows) < 0.2, 0] = np.nan
    ids = np.stack([rng.integers(0, column.rows, rows) for column in LAYOUT.ids], axis=1).astype(np.int32)
    taste = np.random.default_rng(99).normal(size=60)
    logit = -1.0 + taste[ids[:, 0]] + 0.8 * numeric[:, 1]
    click = rng.random(rows) < 1 / (1 + np.exp(-logit))
    cart = click & (rng.random(rows) < 0.4)
    labels = np.stack([click, cart], axis=1).astype(np.int8)
    labels[rng.random(rows) < 0.1, 1] = -1
    return PackedSplit(
        numeric=numeric,
        ids=ids,
        labels=labels,
        weights=rng.uniform(0.5, 1.5, (rows, 2)).astype(np.float32),
        ts=np.arange(rows, dtype=np.int64),
        user=np.full(rows, -1, dtype=np.int64),
        position=np.zeros(rows, dtype=np.int16),
        random=np.zeros(rows, dtype=np.bool_),
    )


def pack(directory: Path, train: PackedSplit) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "layout.json").write_text(LAYOUT.to_json())
    for seed, name in enumerate(SPLITS):
        write_split(directory, name, train if name == "train" else make_split(200, seed))
    return directory


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("packed"), make_split(1000, 7))


@pytest.fixture
def layout() -> Layout:
    return LAYOUT


@pytest.fixture
def make_rows() -> Callable[[int, int], PackedSplit]:
    return make_split


@pytest.fixture
def make_packed(tmp_path: Path) -> Callable[[str, int], Path]:
    return lambda name, rows: pack(tmp_path / name, make_split(rows, 7))


@pytest.fixture
def job(packed: Path, tmp_path: Path) -> TrainingJob:
    return TrainingJob(
        dataset=packed,
        output=tmp_path / "out",
        seed=3,
        device="cpu",
        model=Model(embedding_dim=4, hidden=[16, 8], dropout=0.2, embedding_dropout=0.1),
        training=Training(
            epochs=2,
            batch_size=100,
            threads=1,
            log_every=4,
            detail_every=4,
            learning_rate=0.03,
            embedding_learning_rate=0.1,
        ),
        checkpoint_every=3,
    )


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_trainer() -> Callable[..., Trainer]:
    def make(job: TrainingJob, *, stop_after: int | None = None, callbacks: Sequence[Callback] = ()) -> Trainer:
        asked: Any = count()
        dataset = PackedDataset.open(job.dataset)
        train = dataset.splits["train"]
        return Trainer(
            job,
            dataset,
            plan_training(job.training, job.model, len(train), known_outcomes(train.labels)),
            ProcessGroup(Shard(), torch.device("cpu")),
            clock=lambda: 0.0,
            cancelled=lambda: stop_after is not None and next(asked) >= stop_after,
            callbacks=callbacks,
        )

    return make
