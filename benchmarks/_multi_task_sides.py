"""MMoE and PLE of this project and of torch-rechub on the same packed arrays, each training in a process of its own.

    python benchmarks/_multi_task_sides.py JOB.json

reads a :class:`Side`, trains it, and writes ``test.npy`` (logits [N, T] of the test rows) and ``measured.json`` beside it: CPU
seconds of the training itself, without start, reading and scoring. The other library is asked for what its own trainer does,
with a loader that hands out whole batches: its default one collates rows and would measure that alone.

Both have the embeddings and standardised numbers as inputs, experts directly on them, the same widths, batches, rows and
epochs, no dropout, and Adam at a mean rate of 0.001 on the dense weights: there it is constant, here it falls from twice that
along a cosine. What differs is each library's own: normalisation by row or by batch (there also of the gates' scores), and
Adam or row-wise Adagrad on the tables, whose rates do not compare; that of Adagrad was chosen once on other rows.
"""

import json
import resource
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.datasets import SPLITS, PackedDataset, PackedSplit, write_split
from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn

VOCABULARIES = (
    300_000, 200_000, 150_000, 100_000, 80_000, 40_000, 20_000, 10_000, 5_000, 2_000, 1_000, 1_000, 500, 500, 200, 200, 100,
    100, 50, 50, 20, 20, 10, 10,
)  # fmt: skip
"""Ids of the features: 0.91 million together, as in the benchmarks of other models."""

EXPERTS, EXPERT, TOWER = 4, [64], [32]
SHARED_EXPERTS, TASK_EXPERTS = 2, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one process trains and where it writes."""

    library: str
    """``ours`` or ``torch-rechub``."""
    architecture: str
    """``mmoe`` or ``ple``."""
    dataset: str
    output: str
    seed: int
    batch_size: int = 2048
    epochs: int = 1
    learning_rate: float = 1e-3
    table_rate: float = 0.15
    threads: int = 1


def make_dataset(directory: Path, rows: int, test_rows: int, seed: int = 1) -> Path:
    """Packed arrays of a made-up funnel of two tasks, click and order, with a signal in pairs of ids and in numbers."""
    random = np.random.default_rng(seed)
    vocabularies = VOCABULARIES
    layout = Layout(
        numeric=tuple(NumericColumn(f"n{i}", "dense", "none", 0.0, False, 0.0, 1.0) for i in range(8)),
        ids=tuple(IdColumn(f"c{i}", "categorical", size, 16) for i, size in enumerate(vocabularies)),
        tasks=("click", "order"), parents=(-1, 0),
    )  # fmt: skip
    vectors = [random.normal(size=(size, 3)) for size in vocabularies]
    weights = random.normal(size=(2, len(vocabularies), 3)) / 4
    slopes = random.normal(size=(2, 8)) / 4
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "layout.json").write_text(layout.to_json(), encoding="utf-8")
    for name in SPLITS:
        count = {"train": rows, "test": test_rows}.get(name, 2_000)
        ids = np.stack([np.minimum(random.zipf(1.2, count) + 1, size - 1) for size in vocabularies], axis=1)
        numbers = random.normal(size=(count, 8))
        embedded = [vector[ids[:, i]] for i, vector in enumerate(vectors)]
        scores = []
        for task in range(2):
            linear = sum(e @ w for e, w in zip(embedded, weights[task], strict=True))
            pairs = sum((embedded[i] * embedded[i + 1]).sum(axis=1) for i in range(task, 10, 3)) / 3
            scores.append(linear + pairs + np.sin(2 * numbers) @ slopes[task])
        clicked = random.random(count) < 1 / (1 + np.exp(2.2 - scores[0]))
        ordered = clicked & (random.random(count) < 1 / (1 + np.exp(1.5 - scores[1] - scores[0] / 2)))
        split = PackedSplit(
            numeric=numbers.astype(np.float32), ids=ids.astype(np.int32),
            labels=np.stack([clicked, ordered], axis=1).astype(np.int8), weights=np.ones((count, 2), np.float32),
            ts=np.arange(count, dtype=np.int64), user=np.full(count, -1, np.int64), position=np.zeros(count, np.int16),
            random=np.zeros(count, np.bool_),
        )  # fmt: skip
        write_split(directory, name, split)
    return directory


def train_ours(side: Side, dataset: PackedDataset) -> tuple[NDArray[np.float32], float]:
    """Logits of the test rows, and CPU seconds of the steps."""
    from ctr_pipeline.ranker import load_ranker
    from ctr_pipeline.spec.model import Model
    from ctr_pipeline.spec.training import Training
    from ctr_pipeline.training.dataloader import Shard
    from ctr_pipeline.training.distributed import ProcessGroup
    from ctr_pipeline.training.job_spec import TrainingJob
    from ctr_pipeline.training.loop import Trainer
    from ctr_pipeline.training.plan import plan_training

    section: dict[str, Any] = {"kind": side.architecture, "expert": EXPERT, "tower": TOWER}
    section |= (
        {"experts": EXPERTS}
        if side.architecture == "mmoe"
        else {"shared_experts": SHARED_EXPERTS, "task_experts": TASK_EXPERTS}
    )
    model = Model.model_validate(
        {
            "hidden": [],
            "wide": False,
            "heads": "independent",
            "dropout": 0.0,
            "embedding_dropout": 0.0,
            "multi_task": section,
        }
    )
    training = Training(
        epochs=side.epochs, batch_size=side.batch_size, learning_rate=2 * side.learning_rate, embedding_learning_rate=side.table_rate,
        threads=side.threads, warmup_fraction=0.0, weight_decay=0.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        job = TrainingJob(
            dataset=dataset.directory, output=Path(folder), seed=side.seed, model=model, training=training, device="cpu",
            checkpoint_every=10**9,
        )  # fmt: skip
        train = dataset.splits["train"]
        plan = plan_training(training, model, len(train), int((train.labels == 1).sum(axis=0).max()))
        group = ProcessGroup(Shard(), torch.device("cpu"))
        trainer = Trainer(job, dataset, plan, group, cpu_seconds, lambda: False)
        seconds = trainer.run(False).seconds
        ranker = load_ranker(trainer.files.model, dataset.layout, model)
    return _in_pieces(dataset.splits["test"], lambda numbers, ids: ranker(numbers, ids)), seconds


def train_rechub(side: Side, dataset: PackedDataset) -> tuple[NDArray[np.float32], float]:
    """The same of torch-rechub's model under its own trainer."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import MMOE, PLE
    from torch_rechub.trainers import MTLTrainer

    torch.manual_seed(side.seed)
    layout, train = dataset.layout, dataset.splits["train"]
    features = [SparseFeature(c.name, vocab_size=c.rows, embed_dim=c.dim) for c in layout.ids]
    features += [DenseFeature(c.name) for c in layout.numeric]
    kinds = ["classification"] * len(layout.tasks)
    expert = {"dims": EXPERT, "activation": "relu", "dropout": 0.0}
    towers = [{"dims": TOWER, "activation": "relu", "dropout": 0.0}] * len(layout.tasks)
    model = (
        MMOE(features, kinds, EXPERTS, expert, towers)
        if side.architecture == "mmoe"
        else PLE(features, kinds, 1, TASK_EXPERTS, SHARED_EXPERTS, expert, towers)
    )
    optimizer = {"lr": side.learning_rate, "weight_decay": 0.0}
    trainer = MTLTrainer(model, kinds, optimizer_params=optimizer, n_epoch=side.epochs)
    numbers, ids = torch.from_numpy(np.asarray(train.numeric)), torch.from_numpy(np.asarray(train.ids))
    labels = torch.from_numpy(np.asarray(train.labels))

    def named(numbers: Tensor, ids: Tensor) -> dict[str, Tensor]:
        columns = {c.name: ids[:, place] for place, c in enumerate(layout.ids)}
        return columns | {c.name: numbers[:, place] for place, c in enumerate(layout.numeric)}

    class Batches:
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(side.seed)

        def __len__(self) -> int:
            return -(-len(train) // side.batch_size)

        def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
            order = torch.randperm(len(train), generator=self.generator)
            for rows in order.split(side.batch_size):
                yield named(numbers[rows], ids[rows]), labels[rows]

    batches = Batches()
    began = cpu_seconds()
    for _ in range(side.epochs):
        trainer.train_one_epoch(batches)
    seconds = cpu_seconds() - began
    model.eval()
    return _in_pieces(dataset.splits["test"], lambda n, i: torch.logit(model(named(n, i)).double(), eps=1e-12)), seconds


def cpu_seconds() -> float:
    """Seconds of CPU time of this process and its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _in_pieces(split: PackedSplit, score: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        pieces = [
            score(torch.from_numpy(np.array(split.numeric[at : at + 8192])), torch.from_numpy(np.array(split.ids[at : at + 8192])))
            for at in range(0, len(split), 8192)
        ]  # fmt: skip
    return torch.cat(pieces).numpy()


def main() -> None:
    """Trains the side of the file that the command line names."""
    path = Path(sys.argv[1])
    side = Side(**json.loads(path.read_text(encoding="utf-8")))
    torch.set_num_threads(side.threads)
    dataset = PackedDataset.open(Path(side.dataset))
    train = train_ours if side.library == "ours" else train_rechub
    logits, seconds = train(side, dataset)
    output = Path(side.output)
    np.save(output / "test.npy", logits)
    rows = len(dataset.splits["train"]) * side.epochs
    measured = {**asdict(side), "cpu_seconds": seconds, "cpu_seconds_per_million_rows": seconds / rows * 1e6}
    (output / "measured.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
