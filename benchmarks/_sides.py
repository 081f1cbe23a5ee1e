"""One side of ranking.py in a process of its own: it trains, scores, and writes its logits and what that took.

Started by ranking.py as ``python benchmarks/_sides.py JOB.json``. A process a side, so that each has a peak of memory of
its own. The sides beside the product read the packed arrays that the product trains on:

- numbers as they were logged, a missing one as missing; for the logistic regression filled, transformed and standardised
  as the layout says;
- ids as their rows in the vocabulary, which are in the order of their frequency. To the trees, an id of few values is a
  category; one of many values is its place by frequency and its count among the training rows. The logistic regression
  has a weight for each value;
- each task is learnt from its own settled rows, unweighted.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ctr_pipeline.datasets import PackedDataset, PackedSplit

SCORED = ("calibration", "test")
LARGEST_CATEGORY = 256
"""Ids with more values are no categories to the trees: one split over thousands of them is learnt by heart."""
LARGEST_ONE_HOT = 2**20
"""Weights of the logistic regression; ids beyond share them by the remainder."""
STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse strengths of the L2 penalty that the logistic regression chooses from by validation log loss."""
MOST_TREES, PATIENCE, TREES_WITHOUT_VALIDATION = 2000, 50, 100

TREES: dict[str, dict[str, Any]] = {
    # What the library does when it is told nothing.
    "defaults": {},
    # What its users come to on rare outcomes and ids: slow, small, drawn together, each tree on a part of rows and columns.
    "regularised": {
        "learning_rate": 0.03,
        "num_leaves": 31,
        "min_data_in_leaf": 50,
        "lambda_l2": 10.0,
        "cat_l2": 30.0,
        "cat_smooth": 50.0,
        "max_bin": 127,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SideJob:
    """What one process trains and where it writes."""

    kind: str
    """``product``, ``logistic``, or one of :data:`TREES`."""
    output: str
    """Folder for ``measured.json`` and, but for the product, the logits ``calibration.npy`` and ``test.npy``."""
    trainer_job: str = ""
    """The product's job file."""
    dataset: str = ""
    tasks: tuple[int, ...] = ()
    """Columns of the label array to learn."""
    position: bool = False
    """Whether the logged position is among the inputs."""
    refit: bool = False
    """Whether the trees are grown once more, as many of them, on the rows that the product is fitted on in the end."""
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """What a side took: training and scoring, without its start."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    """Of the whole process, imports included."""


def main(job_file: Path) -> int:
    """Does the job and returns the exit code."""
    job = SideJob(**json.loads(job_file.read_text(encoding="utf-8")))
    output = Path(job.output)
    output.mkdir(parents=True, exist_ok=True)
    from ctr_pipeline.datasets import PackedDataset

    if job.kind == "product":
        import torch  # noqa: F401  its import is part of the start
    elif job.kind == "logistic":
        import sklearn.linear_model  # noqa: F401
    else:
        import lightgbm  # noqa: F401
    began, cpu = time.perf_counter(), time.process_time()
    if job.kind == "product":
        from ctr_pipeline.training.entry import main as train

        code = train(["--job", job.trainer_job])
        if code != 0:
            return code
    else:
        fit = _logistic if job.kind == "logistic" else _trees
        dataset = PackedDataset.open(Path(job.dataset))
        by_task = [fit(job, dataset, task) for task in job.tasks]
        for split in SCORED:
            np.save(output / f"{split}.npy", np.column_stack([logits[split] for logits in by_task]))
    cost = Cost(time.perf_counter() - began, time.process_time() - cpu, _peak_mib())
    (output / "measured.json").write_text(json.dumps(asdict(cost)), encoding="utf-8")
    return 0


def _trees(job: SideJob, dataset: "PackedDataset", task: int) -> dict[str, NDArray[np.float64]]:
    """Logits of the scored splits, of as many trees as are best on the validation rows."""
    import lightgbm as lgb

    settings = {
        "objective": "binary", "verbosity": -1, "num_threads": job.threads, "seed": job.seed, "deterministic": True,
        **TREES[job.kind],
    }  # fmt: skip
    counts = _counts(dataset)
    # What the product is fitted on in the end, where it is fitted twice.
    again = ["refit"] if "refit" in dataset.splits else ["train", "validation"]
    rows = {name: _settled(dataset.splits[name], task) for name in {"train", "validation", *again}}
    matrices, categories = {}, list[int]()
    for name in (*rows, *SCORED):
        split = dataset.splits[name]
        matrices[name], categories = tree_inputs(dataset, split, rows.get(name, slice(None)), counts, job.position)
    labels = {name: dataset.splits[name].labels[chosen, task] for name, chosen in rows.items()}

    def data(*names: str, reference: lgb.Dataset | None = None) -> lgb.Dataset:
        return lgb.Dataset(
            np.concatenate([matrices[name] for name in names]), np.concatenate([labels[name] for name in names]),
            categorical_feature=categories, reference=reference, params=settings,
        )  # fmt: skip

    fitting = data("train")
    if len(np.unique(labels["validation"])) == 2:
        stopping = lgb.early_stopping(PATIENCE, verbose=False)
        model = lgb.train(
            settings, fitting, MOST_TREES, [data("validation", reference=fitting)], callbacks=[stopping]
        )  # fmt: skip
        trees = model.best_iteration
    else:
        model, trees = lgb.train(settings, fitting, TREES_WITHOUT_VALIDATION), TREES_WITHOUT_VALIDATION
    if job.refit:
        model = lgb.train(settings, data(*again), trees)
    return {name: np.asarray(model.predict(matrices[name], raw_score=True, num_iteration=trees)) for name in SCORED}


def tree_inputs(
    dataset: "PackedDataset",
    split: "PackedSplit",
    rows: "NDArray[np.intp] | slice",
    counts: list[NDArray[np.int64]],
    position: bool,
) -> tuple[NDArray[np.float32], list[int]]:
    """[N, D] inputs of the trees, and which columns of them are categories."""
    ids = split.ids[rows]
    columns: list[NDArray[Any]] = [*split.numeric[rows].T]
    if position:
        columns.append(split.position[rows])
    categories = []
    for place, column in enumerate(dataset.layout.id_columns):
        if column.rows <= LARGEST_CATEGORY:
            categories.append(len(columns))
        else:
            columns.append(np.log1p(counts[place][np.maximum(ids[:, place], 0)]))
        # A place behind the end of a list is missing.
        columns.append(np.where(ids[:, place] < 0, np.nan, ids[:, place]))
    return np.stack(columns, axis=1, dtype=np.float32), categories


def _logistic(job: SideJob, dataset: "PackedDataset", task: int) -> dict[str, NDArray[np.float64]]:
    """Logits of the scored splits, at the strength that is best on the validation rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    train, validation = (_settled(dataset.splits[name], task) for name in ("train", "validation"))
    inputs = linear_inputs(dataset, dataset.splits["train"], train, job.position)
    labels = dataset.splits["train"].labels[train, task]
    checking = linear_inputs(dataset, dataset.splits["validation"], validation, job.position)
    truth = dataset.splits["validation"].labels[validation, task]
    scored = {name: linear_inputs(dataset, dataset.splits[name], slice(None), job.position) for name in SCORED}
    best, found = np.inf, dict[str, NDArray[np.float64]]()
    model = LogisticRegression(max_iter=100, tol=1e-3, warm_start=True)
    for strength in STRENGTHS:
        model.set_params(C=strength).fit(inputs, labels)
        loss = log_loss(truth, model.predict_proba(checking)[:, 1], labels=[0, 1]) if len(truth) else 0.0
        if loss < best:
            best, found = loss, {name: model.decision_function(matrix) for name, matrix in scored.items()}
    return found


def linear_inputs(
    dataset: "PackedDataset", split: "PackedSplit", rows: "NDArray[np.intp] | slice", position: bool
) -> "csr_matrix":
    """[N, D] numbers, whether each was missing, and a 0/1 column for each value of each id and each position."""
    from scipy.sparse import csr_matrix, hstack

    layout, numeric, ids = dataset.layout, split.numeric[rows].astype(np.float64), split.ids[rows]
    missing = np.isnan(numeric)
    for place, column in enumerate(layout.numeric):
        values = np.where(missing[:, place], column.fill, numeric[:, place])
        if column.transform == "signed_log1p":
            values = np.sign(values) * np.log1p(np.abs(values))
        numeric[:, place] = (values - column.mean) / column.std
    starts = np.cumsum([0, *(column.rows for column in layout.id_columns)])
    codes, width = ids + starts[:-1].astype(np.int64), int(starts[-1])
    known = ids >= 0
    if position:
        slots = np.minimum(split.position[rows], 255).astype(np.int64)
        codes, width = np.column_stack([codes, width + slots]), width + 256
        known = np.column_stack([known, np.ones(len(slots), dtype=np.bool_)])
    ends = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    taken = codes[known] % LARGEST_ONE_HOT
    one_hot = csr_matrix(
        (np.ones(len(taken)), taken, ends), shape=(len(numeric), min(width, LARGEST_ONE_HOT))
    )  # fmt: skip
    return hstack([csr_matrix(numeric), csr_matrix(missing.astype(np.float64)), one_hot], format="csr")


def _counts(dataset: "PackedDataset") -> list[NDArray[np.int64]]:
    """For each column of the ids how often each of its rows is among the training rows."""
    ids = dataset.splits["train"].ids
    return [
        np.bincount(np.maximum(ids[:, place], 0), minlength=column.rows)
        for place, column in enumerate(dataset.layout.id_columns)
    ]


def _settled(split: "PackedSplit", task: int) -> NDArray[np.intp]:
    return np.flatnonzero(split.labels[:, task] >= 0)


def _peak_mib() -> float:
    # Not ru_maxrss: it begins with the memory of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
