"""Whether a served model scores as it did offline: impressions of the test days, sent to `ctr serve` as a client sends them.

Requests are made of the raw log: raw ids, one user and page with its candidates, without features of the past. `ctr serve` hashes
the ids, looks the past up in its snapshot of the impression's day, encodes, scores, and answers by HTTP, at `POST /score` or, one
request in ten, by the Open Inference Protocol. Snapshots are those of the data root; where it does not have all test days any more, they are
made again apart, as `ctr snapshot` makes them. Features that look back from the request itself (`exact`) are sent with it where the service's store
of events forgets, by the clock, what they look back to; they are named then. Each probability is compared with the one that the evaluation of the model used, and the
ranking score with one computed from those in double precision.

With ``--storage`` the trained model is exported and served once for each storage of its embeddings too. Bundles whose embeddings are
rounded are compared with the trained model whose embeddings are rounded so, by the same limit; what the rounding itself does
to a probability is printed beside.

Nothing of it is logged in the data root.

Run from the checkout::

    python benchmarks/serving_parity.py [--data-root data/ads] [--impressions 10000] [--storage fp16 int8] [--json FILE] [--assert]

``--assert`` exits with 1 where a difference is larger than 1e-5: of a ranking score, than that times the sum of its terms' factors.
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import orjson
import polars as pl
from _logged_pages import LoggedPages, logged_pages
from _machine import machine
from numpy.typing import NDArray
from scipy.special import expit

from ctr_pipeline.commands.make_snapshot import snapshot_of_day
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.online.event_store import exact_features
from ctr_pipeline.online.snapshot_index import KEPT, listed
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.embedding_storage import Storage
from ctr_pipeline.spec.extensions import load_extensions
from ctr_pipeline.spec.fields import DAY_US

if TYPE_CHECKING:
    from ctr_pipeline.ranker import Ranker

LIMIT = 1e-5
PROTOCOL_SHARE = 10
"""One request in so many is sent by the Open Inference Protocol."""
STORAGES: tuple[Storage, ...] = ("fp32", "fp16", "int8")

Request = tuple[dict[str, Any], dict[str, list[Any]]]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model of a data root and its test rows."""

    root: Path
    deployment: Deployment
    files: RetrainFiles
    bundle: Bundle
    pages: LoggedPages
    probabilities: NDArray[np.float64]
    """[N, T] of the test rows, as they were evaluated."""
    sent: tuple[str, ...]
    """Features of the past that requests hold, as events that make them lie too far back for the service."""

    @classmethod
    def of(cls, root: Path) -> Self:
        """The latest model of a data root."""
        folders = sorted(root.glob("training/*/bundle"))
        if not folders:
            raise SystemExit(f"{root}: has no bundle; run `make demo` first")
        deployment, bundle = Deployment.load(root), Bundle.open(folders[-1])
        files = RetrainFiles(deployment.paths.retrain(folders[-1].parent.name))
        pages = logged_pages(deployment, bundle, files)
        exact, now = exact_features(deployment.spec), time.time_ns() // 1000
        reach = now - max((feature.days for feature in exact), default=0) * DAY_US
        first = int(pages.rows["ts"][0])
        begins = _midnight(deployment.log_first_day)
        sent = tuple(feature.name for feature in exact if max(begins, first - feature.days * DAY_US) < reach)
        numeric = PackedDataset.open(files.paths.packed).splits["test"].numeric
        places = {column.feature: at for at, column in enumerate(bundle.layout.numeric)}
        values = {name: pl.Series(np.asarray(numeric[:, places[name]])).fill_nan(None) for name in sent}
        own = set(bundle.layout.candidate_features or ())
        return cls(
            root=root,
            deployment=deployment,
            files=files,
            bundle=bundle,
            pages=replace(
                pages, rows=pages.rows.with_columns(**values), shared=pages.shared | (set(sent) - own if own else set())
            ),
            probabilities=expit(files.calibrated("test", bundle.tasks)),
            sent=sent,
        )

    @property
    def days(self) -> list[date]:
        """The test days, the last ones where a store does not keep so many."""
        times = self.pages.rows.select(pl.from_epoch("ts", time_unit="us").dt.date())
        return sorted(times["ts"].unique().to_list())[-KEPT:]

    def chosen(self, impressions: int) -> list[NDArray[np.int64]]:
        """Pages spread evenly over the test days, with at least so many impressions, or all."""
        first, times = _midnight(self.days[0]), self.pages.rows["ts"].to_numpy()
        every = [at for at in self.pages.pages if times[at[0]] >= first]
        for step in range(max(1, sum(map(len, every)) // max(1, impressions)), 1, -1):
            found = every[::step]
            if sum(map(len, found)) >= impressions:
                return found
        return every

    def store(self, folder: Path) -> Path:
        """A store with a snapshot of each test day: that of the data root, or one made in ``folder``."""
        own = self.deployment.paths.online
        if self.bundle.history is None or {
            one.day for one in listed(own) if one.definition == self.bundle.history
        } >= set(self.days):
            return own
        for day in self.days:
            snapshot_of_day(self.deployment, day, folder)
        return folder

    def rounded(self, storage: Storage, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """[K, T] what torch gives for rows of the test with embeddings rounded so."""
        from ctr_pipeline.serving.export import reference_scores, stored_ranker

        test, ranker = (
            PackedDataset.open(self.files.paths.packed).splits["test"],
            stored_ranker(self._ranker(), storage),
        )
        numeric, ids = np.asarray(test.numeric)[rows], np.asarray(test.ids)[rows]
        parts = [slice(at, at + 4096) for at in range(0, len(rows), 4096)]
        fitted, layout = self.files.calibrators(), self.bundle.layout
        scores = [reference_scores(ranker, fitted, layout, numeric[part], ids[part]).probabilities for part in parts]
        return np.concatenate(scores).astype(np.float64)

    def exported(self, storage: Storage, folder: Path) -> Bundle:
        """A bundle with embeddings stored so."""
        from ctr_pipeline.serving.export import export_bundle

        dataset, spec = PackedDataset.open(self.files.paths.packed), self.deployment.spec
        spec = spec.model_copy(update={"serving": spec.serving.model_copy(update={"embedding_storage": storage})})
        vocabulary = dataset.directory / "vocabulary.parquet"
        return export_bundle(self._ranker(), self.files.calibrators(), dataset.layout, vocabulary, spec, folder)

    def _ranker(self) -> "Ranker":
        from ctr_pipeline.ranker import load_ranker

        layout = PackedDataset.open(self.files.paths.packed).layout
        return load_ranker(self.files.paths.training / "model.pt", layout, self.deployment.spec.model)


def _midnight(day: date) -> int:
    return int(datetime.combine(day, datetime.min.time(), UTC).timestamp()) * 1_000_000


@contextmanager
def served(root: Path, bundle: Path, store: Path) -> Iterator[http.client.HTTPConnection]:
    """A connection to a `ctr serve` of a bundle with a store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from ctr_pipeline.cli.app import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "serve",
        "--data-root",
        str(root),
        "--bundle",
        str(bundle),
        "--store",
        str(store),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=environment, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("`ctr serve` does not answer")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("GET", "/readyz")
                if connection.getresponse().read() and connection.sock is not None:
                    break
            except OSError:
                time.sleep(0.2)
        yield connection
        connection.close()
    finally:
        process.terminate()
        process.wait(30)


def asked(connection: http.client.HTTPConnection, path: str, content: Any) -> dict[str, Any]:
    """The answer to a request."""
    connection.request("POST", path, orjson.dumps(content), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer: dict[str, Any] = orjson.loads(response.read())
    if response.status != 200:
        raise SystemExit(f"{path}: status {response.status}: {answer}")
    return answer


def by_score(connection: http.client.HTTPConnection, request: Request) -> dict[str, list[float | None]]:
    """Scores by `POST /score`."""
    answer = asked(connection, "/score", {"shared": request[0], "candidates": request[1]})
    ranking = {"ranking_score": answer["ranking_score"]} if "ranking_score" in answer else {}
    return {**answer["scores"], **ranking}


def by_protocol(
    connection: http.client.HTTPConnection, request: Request, bundle: Bundle
) -> dict[str, list[float | None]]:
    """Scores by the Open Inference Protocol."""
    tensors = []
    for name, values in [*((name, [value]) for name, value in request[0].items()), *request[1].items()]:
        kind = bundle.inputs.get(name, "double")
        if name in ("ts", "impression_id", "user"):
            kind = "timestamp" if name == "ts" else "string"
        if kind == "string":
            data = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        else:
            data = values
        datatype = {"string": "BYTES", "timestamp": "INT64"}.get(kind, "FP64")
        tensors.append({"name": name, "shape": [len(values)], "datatype": datatype, "data": data})
    answer = asked(connection, f"/v2/models/{bundle.name}/infer", {"inputs": tensors})
    return {output["name"]: output["data"] for output in answer["outputs"]}


def answers(trained: Trained, bundle: Bundle, store: Path, pages: list[NDArray[np.int64]]) -> dict[str, Any]:
    """[K] what was served for the rows of all pages, by task and ``ranking_score``, and how many went by the protocol."""
    found: dict[str, list[float | None]] = {}
    lists, protocol = any(kind.startswith("[") for kind in bundle.inputs.values()), 0
    with served(trained.root, bundle.directory, store) as connection:
        for place, at in enumerate(pages):
            request = trained.pages.request(at)
            # A tensor has no lists of several lengths.
            if place % PROTOCOL_SHARE == PROTOCOL_SHARE - 1 and not (lists and _has_lists(request)):
                scores, protocol = by_protocol(connection, request, bundle), protocol + len(at)
            else:
                scores = by_score(connection, request)
            for name, values in scores.items():
                if len(values) != len(at):
                    raise SystemExit(f"{name}: {len(values)} scores for {len(at)} candidates")
                found.setdefault(name, []).extend(values)
    columns = {name: np.array(values, dtype=np.float64) for name, values in found.items()}
    return {"scores": columns, "protocol": protocol}


def _has_lists(request: Request) -> bool:
    return any(isinstance(v, list) for v in request[0].values()) or any(
        isinstance(value, list) for values in request[1].values() for value in values
    )


def ranking_of(trained: Trained, probabilities: NDArray[np.float64], rows: NDArray[np.int64]) -> Any:
    """[K] ranking scores of rows, NaN where a bid is missing, and [K] the sum of the factors of its terms; None without."""
    terms = trained.deployment.spec.serving.score
    if terms is None:
        return None
    total, factors = np.zeros(len(rows)), np.zeros(len(rows))
    for term in terms:
        bid = np.ones(len(rows)) if term.bid is None else trained.pages.rows[term.bid][rows].cast(float).to_numpy()
        total += term.weight * bid * probabilities[:, trained.bundle.tasks.index(term.task)]
        factors += np.abs(term.weight * bid)
    return total, factors


def compared(
    trained: Trained, bundle: Bundle, store: Path, pages: list[NDArray[np.int64]], expected: NDArray[np.float64]
) -> dict[str, Any]:
    """Rows, and by task the largest and the 99th percentile of the differences between served and ``expected`` [K, T]."""
    rows, started = np.concatenate(pages), time.perf_counter()
    found = answers(trained, bundle, store, pages)
    seconds, scores = time.perf_counter() - started, found["scores"]
    differences = {task: np.abs(scores[task] - expected[:, at]) for at, task in enumerate(bundle.tasks)}
    limits = {task: np.full(len(rows), LIMIT) for task in bundle.tasks}
    ranking = ranking_of(trained, expected, rows)
    if ranking is not None:
        served_nan, offline_nan = np.isnan(scores["ranking_score"]), np.isnan(ranking[0])
        if (served_nan != offline_nan).any():
            raise SystemExit(
                f"ranking_score: {int((served_nan != offline_nan).sum())} are missing on one of both sides"
            )
        differences["ranking_score"] = np.abs(np.where(served_nan, 0, scores["ranking_score"] - ranking[0]))
        limits["ranking_score"] = np.where(served_nan, LIMIT, LIMIT * ranking[1])
    return {
        "rows": len(rows),
        "requests": len(pages),
        "rows by the protocol": found["protocol"],
        "seconds": round(seconds, 1),
        "differences": {
            name: {
                "max": float(of.max()),
                "p99": float(np.percentile(of, 99)),
                "beyond the limit": int((~(of <= limits[name])).sum()),
            }
            for name, of in differences.items()
        },
    }


def main() -> int:
    """Serve, compare, print, and judge where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data/ads"))
    parser.add_argument("--impressions", type=int, default=10_000)
    parser.add_argument("--storage", nargs="*", choices=STORAGES, default=[])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--assert", dest="judged", action="store_true")
    arguments = parser.parse_args()
    load_extensions()
    trained = Trained.of(arguments.data_root.resolve())
    pages = trained.chosen(arguments.impressions)
    rows = np.concatenate(pages)
    offline, declared = trained.probabilities[rows], trained.deployment.spec.serving.embedding_storage
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = trained.store(Path(folder) / "online")
        for name in ("as promoted", *arguments.storage):
            storage = declared if name == "as promoted" else name
            bundle = trained.bundle if name == "as promoted" else trained.exported(storage, Path(folder) / name)
            expected = offline if storage == "fp32" else trained.rounded(storage, rows)
            found[name] = compared(trained, bundle, store, pages, expected)
            found[name]["rounding"] = float(np.abs(expected - offline).max())
    print(machine(("onnxruntime",)))
    if trained.sent:
        print(f"sent with the requests: {', '.join(trained.sent)}")
    for name, of in found.items():
        beside = f", rounding itself up to {of['rounding']:.1e}" if of["rounding"] else ""
        print(
            f"{name}: {of['rows']} impressions in {of['requests']} requests, {of['rows by the protocol']} of them by the "
            f"protocol, {of['seconds']} s{beside}"
        )
        for task, each in of["differences"].items():
            print(
                f"  {task:20} max {each['max']:.2e}  p99 {each['p99']:.2e}  beyond the limit {each['beyond the limit']}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    wrong = sum(each["beyond the limit"] for of in found.values() for each in of["differences"].values())
    if arguments.judged and wrong:
        print(f"{wrong} scores differ by more than the limit", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
