"""MMoE and PLE beside torch-rechub's on the same arrays in the same run: AUC by task, and CPU seconds by million rows.

Run from the checkout; torch-rechub may lie in a folder of its own, so that it does not change the environment::

    pip install --no-deps --target ../peers torch-rechub==0.9.0
    python benchmarks/multi_task.py --peers ../peers [--rows 1000000] [--test-rows 400000] [--seeds 1 2 3]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from _multi_task_sides import Side, make_dataset

from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.evaluation.metrics import roc_auc

LIBRARIES, ARCHITECTURES = ("ours", "torch-rechub"), ("mmoe", "ple")


def main() -> None:
    """Trains every side and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder with torch_rechub")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--test-rows", type=int, default=400_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "packed", options.rows, options.test_rows)
        test = PackedDataset.open(dataset).splits["test"]
        tasks = PackedDataset.open(dataset).layout.tasks
        print(f"{options.rows:,} training rows, {options.test_rows:,} test rows, seeds {options.seeds}\n")
        print("| architecture | side | " + " | ".join(f"AUC {task}" for task in tasks) + " | CPU-s per million rows |")
        print("|---|---|" + "---|" * (len(tasks) + 1))
        for architecture in ARCHITECTURES:
            for library in LIBRARIES:
                auc, seconds = [], []
                for seed in options.seeds:
                    output = Path(folder) / f"{library}-{architecture}-{seed}"
                    output.mkdir()
                    side = Side(
                        library=library, architecture=architecture, dataset=str(dataset), output=str(output), seed=seed
                    )
                    (output / "side.json").write_text(json.dumps(asdict(side)), encoding="utf-8")
                    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
                    environment["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(options.peers)])
                    script = Path(__file__).with_name("_multi_task_sides.py")
                    command = [sys.executable, str(script), str(output / "side.json")]
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                    if done.returncode != 0:
                        sys.exit(f"{library}, {architecture}: {done.stderr[-3000:]}")
                    logits = np.load(output / "test.npy")
                    auc.append([roc_auc(logits[:, n], test.labels[:, n]) for n in range(len(tasks))])
                    seconds.append(json.loads((output / "measured.json").read_text())["cpu_seconds_per_million_rows"])
                cells = [
                    f"{mean:.5f} ± {spread:.5f}" for mean, spread in zip(np.mean(auc, 0), np.std(auc, 0), strict=True)
                ]
                print(
                    f"| {architecture} | {library} | " + " | ".join(cells) + f" | {np.mean(seconds):.1f} |", flush=True
                )


if __name__ == "__main__":
    main()
