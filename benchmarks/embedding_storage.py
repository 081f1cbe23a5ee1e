"""What embeddings in half precision, or in 8 bits a value, cost a trained model: its scores on the test rows, bytes and time.

The model of a data root is exported three times, and beside it one with many embeddings, for the bytes. Beside the largest difference in probability on the test rows stand the metrics
of each task, which tell whether it matters. Bytes are those of ``model.onnx``, and what opening the bundle adds to the resident
memory of a process of its own. Time is the processor time of scoring requests of 300 candidates, paced, by turns.

Run from the checkout::

    python benchmarks/embedding_storage.py [--data-root data/ads]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import machine

from ctr_pipeline.calibration import PlattCalibrator, calibrator_from_json
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.evaluation import evaluate
from ctr_pipeline.features.layout import IdColumn, Layout
from ctr_pipeline.ranker import build_ranker, load_ranker
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.calibrated_ranker import CalibratedRanker
from ctr_pipeline.serving.embedding_storage import Storage
from ctr_pipeline.serving.export import check_parity, export_bundle, stored_ranker
from ctr_pipeline.serving.graph_file import write_graph
from ctr_pipeline.serving.latency import measure_latency
from ctr_pipeline.spec import parse_spec
from ctr_pipeline.spec.model import Model

KINDS: tuple[Storage, ...] = ("fp32", "fp16", "int8")
LARGE_ROWS, LARGE_WIDTH = 2_000_000, 16

RESIDENT = """
import sys, psutil
from pathlib import Path
from ctr_pipeline.serving.bundle import _open_session
import onnxruntime
before = psutil.Process().memory_info().rss
session = _open_session(Path(sys.argv[1]))
print(psutil.Process().memory_info().rss - before)
"""


def resident_bytes(graph: Path) -> int:
    """What opening a graph adds to the memory of a process of its own."""
    done = subprocess.run([sys.executable, "-c", RESIDENT, str(graph)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def large_model(folder: Path) -> dict[str, dict[str, int]]:
    """Bytes of a model whose embeddings are nearly all of it, by storage."""
    layout = Layout(
        numeric=(), ids=(IdColumn("user", "categorical", LARGE_ROWS, LARGE_WIDTH),), tasks=("click",), parents=(-1,)
    )
    ranker = build_ranker(layout, Model(hidden=[32], wide=False), 1).eval()
    with torch.no_grad():
        for values in ranker.parameters():
            values.normal_(std=0.05)
    found = {}
    for kind in KINDS:
        (folder / kind).mkdir()
        module = CalibratedRanker(stored_ranker(ranker, kind), [PlattCalibrator()], layout)
        write_graph(module, layout, kind, folder / kind)
        graph = folder / kind / "model.onnx"
        found[kind] = {"model.onnx": graph.stat().st_size, "resident": resident_bytes(graph)}
    return found


def main() -> int:
    """Export, measure, print a row for each storage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data/ads"))
    root = parser.parse_args().data_root
    trainings = sorted(root.glob("training/*/bundle"))
    if not trainings:
        raise SystemExit(f"{root}: has no bundle; run `make demo` first")
    training = trainings[-1].parent
    dataset = PackedDataset.open(root / "datasets" / training.name / "packed")
    content = json.loads((training / "bundle" / "calibration.json").read_text())
    calibrators = {task: calibrator_from_json(found) for task, found in content.items()}
    spec = parse_spec((training / "bundle" / "spec.yaml").read_text(), where="spec.yaml")
    ranker = load_ranker(training / "model.pt", dataset.layout, spec.model)
    test = dataset.splits["test"]
    numeric, ids = np.asarray(test.numeric), np.asarray(test.ids)
    print(machine(("onnxruntime", "torch")))
    found: dict[str, dict[str, Any]] = {}
    exact = None
    with tempfile.TemporaryDirectory() as folder:
        bundles: dict[str, Bundle] = {}
        for kind in KINDS:
            own = spec.model_copy(update={"serving": spec.serving.model_copy(update={"embedding_storage": kind})})
            vocabulary = dataset.directory / "vocabulary.parquet"
            bundle = export_bundle(ranker, calibrators, dataset.layout, vocabulary, own, Path(folder) / kind)
            check_parity(bundle, ranker, calibrators, numeric[:512], ids[:512], kind).require()
            parts = [bundle.score(numeric[at : at + 4096], ids[at : at + 4096]) for at in range(0, len(ids), 4096)]
            scores = np.concatenate([part.probabilities for part in parts]).astype(np.float64)
            exact = scores if exact is None else exact
            graph = bundle.directory / "model.onnx"
            found[kind] = {"model.onnx": graph.stat().st_size, "resident": resident_bytes(graph)}
            bundles[kind] = bundle
            for column, task in enumerate(bundle.tasks):
                logits = np.log(scores[:, column]) - np.log1p(-scores[:, column])
                metrics = evaluate(logits, test.labels[:, column], test.user, seed=1, replicates=20)
                found[kind][task] = {
                    "largest difference": float(np.abs(scores[:, column] - exact[:, column]).max()),
                    "auc": metrics.auc and metrics.auc.value,
                    "ne": metrics.ne and metrics.ne.value,
                }
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(5):
            for kind, bundle in bundles.items():
                latency = measure_latency(
                    bundle, numeric[:5000], ids[:5000], 300,
                    processor_time=time.thread_time, pause=lambda: time.sleep(0.001),
                )  # fmt: skip
                times[kind].append(latency.p50)
        for kind, each in times.items():
            found[kind]["p50 ms, N = 300"] = float(np.median(each))
        (Path(folder) / "large").mkdir()
        large = large_model(Path(folder) / "large")
    print(json.dumps({f"{LARGE_ROWS:,} embeddings of width {LARGE_WIDTH}": large}, indent=1))
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
