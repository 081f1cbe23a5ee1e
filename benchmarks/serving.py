"""How fast a bundle answers: in process, and by HTTP beside a plain FastAPI endpoint of the same bundle.

A request has one user, query and page, and N candidates; values are made of the bundle's vocabulary and statistics. All requests
are paced, as a service is asked: in a loop without pauses the processor's caches hold everything, and figures are several times as
good. Times are from when a request is due to its answer, so that waiting for an earlier request counts.

- ``in process``: from the columns of a request to its scores (ids hashed, history features looked up where there is a store,
  encoded, scored), on one core;
- ``ctr serve``: `POST /score` over loopback; the server has one core to itself, the client another;
- ``plain``: a `def` endpoint with a pydantic model of rows over the same bundle, on the same core as the server before, by turns
  with it; it has no store, so its requests hold the history features;
- ``--load``: 1,000 requests a second for a minute on two workers, over 16 connections;
- ``--bad``: requests of one candidate, alone and beside :data:`BAD_RATE` requests a second that cannot be used, by turns; the server has
  one core to itself.

The figures of a line are medians over the repeats, with the smallest and the largest of them, in milliseconds. ``processor`` is the
processor time of a request, of a service its mean over the requests of a repeat: other processes do not lengthen it as they do the
clock's.

Run from the checkout::

    python benchmarks/serving.py [--data-root data/ads | --bundle FOLDER [--store FOLDER]] [--repeats 5] [--requests 500] [--load] [--bad]
        [--assert]

``--assert`` exits with 1 where a median p99 is above the limit for it: in process .5 ms at N = 1 and 3 ms at N = 512, by HTTP 1.5 ms
at N = 1 and 4 ms at N = 300; or where ``--load`` had an error, or a request of ``--bad`` an answer that is no 4xx.
"""

import argparse
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _machine import machine
from _requests import Connection, load, make_requests, paced
from numpy.typing import NDArray

from ctr_pipeline.commands.serve_store import opened_history
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.http import Limits, ServedModel
from ctr_pipeline.serving.http.request_scoring import score_request
from ctr_pipeline.sources import Pseudonymiser

IN_PROCESS, BY_HTTP = (1, 64, 300, 512), (1, 300)
RATE = 100.0
"""Requests a second."""
DIFFERENT = 50
"""Requests that are made; they are sent in turn."""
WARM_UP = 50
MOST = {("in process", 1): 0.5, ("in process", 512): 3.0, ("ctr serve", 1): 1.5, ("ctr serve", 300): 4.0}
"""Largest p99 in milliseconds."""
KEY = "a key of this benchmark alone, which hashes made-up ids"
LOAD_RATE, LOAD_SECONDS, CONNECTIONS = 1000.0, 60.0, 16
BAD_RATE = 50.0
"""Requests a second that cannot be used, beside those that can."""


def in_process(bundle: Bundle, own: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """p50 and p99 of scoring requests of each size."""
    pseudonym, limits = Pseudonymiser(KEY.encode()).of_text, Limits()
    model = ServedModel.of(bundle, pseudonym)
    if arguments.store is not None:
        model = replace(model, history=opened_history(model, arguments.store, pseudonym))
    made = {n: make_requests(bundle, own, n, DIFFERENT, n, looked_up(arguments, bundle)) for n in IN_PROCESS}
    gc.collect()
    gc.freeze()
    found: dict[int, list[tuple[NDArray[Any], NDArray[Any]]]] = {n: [] for n in IN_PROCESS}
    for repeat in range(arguments.repeats + 1):
        for n, requests in made.items():

            def score(call: int, requests: Any = requests) -> None:
                one = requests[call % DIFFERENT]
                score_request(model, one.shared, one.candidates, limits)

            times = paced(score, arguments.requests if repeat else WARM_UP, RATE)
            if repeat:
                found[n].append(times)
    return {
        f"in process, N = {n}": {
            **figures([clock for clock, _ in times], ""),
            **figures([used for _, used in times], "processor "),
        }
        for n, times in found.items()
    }


def looked_up(arguments: argparse.Namespace, bundle: Bundle) -> set[str]:
    """Features of the past that requests do not hold, because the store does."""
    if arguments.store is None:
        return set()
    made = {column.feature for column in bundle.layout.numeric if column.group == "history"}
    return made | {column.name for column in bundle.layout.ids if column.group == "history"}


def figures(repeats: list[NDArray[Any]], prefix: str) -> dict[str, list[float]]:
    """Median, smallest and largest over the repeats of p50 and p99."""
    found = {}
    for share in (50, 99):
        found[f"{prefix}p{share}"] = spread([float(np.percentile(times, share)) for times in repeats])
    return found


def spread(values: list[float]) -> list[float]:
    """Median, smallest and largest."""
    return [float(np.median(values)), min(values), max(values)]


def tree(process: int) -> list[psutil.Process]:
    """A process and those that it started."""
    first = psutil.Process(process)
    return [first, *first.children(recursive=True)]


def processor_ms(process: int) -> float:
    """Milliseconds that all threads of a process, and of those that it started, have computed."""
    tasks = (task for one in tree(process) for task in Path(f"/proc/{one.pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


@contextmanager
def server(command: list[str], port: int, path: str, core: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers at ``path``, kept to one core where one is named."""
    environment = {**os.environ, "CTR_PSEUDONYM_KEY": KEY, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[1])
    try:
        deadline = time.monotonic() + 60
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command)} does not answer")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        if core is not None:
            for one in tree(process.pid):
                for thread in one.threads():
                    os.sched_setaffinity(thread.id, {core})
        yield process
    finally:
        process.terminate()
        process.wait(20)


def serve_command(bundle: Bundle, port: int, workers: int, store: Path | None) -> list[str]:
    """`ctr serve` of the bundle."""
    code = "from ctr_pipeline.cli.app import main; main()"
    command = [sys.executable, "-c", code, "serve", "--bundle", str(bundle.directory)]
    command += ["--port", str(port), "--workers", str(workers)]
    return command if store is None else [*command, "--store", str(store)]


def by_http(bundle: Bundle, own: list[str], arguments: argparse.Namespace, core: int | None) -> dict[str, Any]:
    """p50 and p99 of both services, and how many times as long the plain one takes."""
    first, second = arguments.port, arguments.port + 1
    plain = [sys.executable, str(Path(__file__).with_name("_plain_endpoint.py")), str(bundle.directory), str(second)]
    found: dict[str, Any] = {}
    with (
        server(serve_command(bundle, first, 1, arguments.store), first, "/readyz", core) as ours,
        server(plain, second, "/openapi.json", core) as theirs,
    ):
        processes = {"ctr serve": ours.pid, "plain": theirs.pid}
        ways = {"ctr serve": Connection(first, "/score"), "plain": Connection(second, "/predict")}
        for n in BY_HTTP:
            ours, theirs_too = (
                make_requests(bundle, own, n, DIFFERENT, n, left_out)
                for left_out in (looked_up(arguments, bundle), set())
            )
            bodies = {
                "ctr serve": [ways["ctr serve"].request(one.columns()) for one in ours],
                "plain": [ways["plain"].request(one.rows()) for one in theirs_too],
            }
            gc.collect()
            gc.freeze()
            times: dict[str, list[NDArray[Any]]] = {name: [] for name in ways}
            used: dict[str, list[float]] = {name: [] for name in ways}
            for repeat in range(arguments.repeats + 1):
                for name, connection in ways.items():

                    def ask(
                        call: int, connection: Connection = connection, own_bodies: list[bytes] = bodies[name]
                    ) -> None:
                        status = connection.ask(own_bodies[call % DIFFERENT])
                        if status != 200:
                            raise SystemExit(f"{connection.socket.getpeername()}: status {status}")

                    before = processor_ms(processes[name])
                    clock, _ = paced(ask, arguments.requests if repeat else WARM_UP, RATE)
                    if repeat:
                        times[name].append(clock)
                        used[name].append((processor_ms(processes[name]) - before) / len(clock))
            for name, each in used.items():
                found[f"{name}, N = {n}"] = figures(times[name], "") | {"processor": spread(each)}
            for share in (50, 99):
                ratios = [
                    float(np.percentile(theirs, share) / np.percentile(ours, share))
                    for ours, theirs in zip(times["ctr serve"], times["plain"], strict=True)
                ]
                found.setdefault(f"plain / ctr serve, N = {n}", {})[f"p{share}"] = spread(ratios)  # fmt: skip
    return found


def under_load(bundle: Bundle, own: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Requests, errors and times of a minute at 1,000 requests a second on two workers, with the client beside them."""
    requests = make_requests(bundle, own, arguments.load_candidates, DIFFERENT, 0, looked_up(arguments, bundle))
    with server(serve_command(bundle, arguments.port, 2, arguments.store), arguments.port, "/readyz", None):
        bodies = [one.columns() for one in requests]
        load(arguments.port, "/score", bodies, LOAD_RATE, 2.0, CONNECTIONS)
        found = load(arguments.port, "/score", bodies, LOAD_RATE, arguments.load_seconds, CONNECTIONS)
    p50, p99 = np.percentile(found.milliseconds, [50, 99])
    asked = len(found.milliseconds)
    return {
        "requests": asked,
        "errors": len(found.errors),
        "kinds": sorted(set(found.errors)),
        "p50": float(p50),
        "p99": float(p99),
    }


def bad_bodies() -> list[bytes]:
    """Bodies of many kinds that cannot be used, whatever the model: broken, of wrong types, deep, wide, long and large."""
    wide = {f"field_{at}": at for at in range(5000)}
    made: list[Any] = [
        [], 3, None, {}, {"rows": []}, {"shared": []}, {"candidates": 3}, {"shared": {"no such feature": 1}}, {"shared": wide}, wide,
        {"candidates": {"x": [1] * 100_000}}, {"candidates": {"x": ["a"] * 100_000}}, {"candidates": {"x": [1, 2], "y": [1]}},
        {"shared": {"x": list(range(100_000))}}, {"shared": {"x": "a" * 2**20}}, {"shared": {"x": [[[[1]]]] * 1000}},
    ]  # fmt: skip
    broken = [b"", b"{", b'{"shared": {"x": NaN}}', b'{"shared": {"x": "\xff"}}', b'{"shared": {"x": ' + b"[" * 50_000]
    return [*broken, *(json.dumps(body).encode() for body in made)]


def _send_bad(port: int, seconds: float, found: Any) -> None:
    """Sends bodies that cannot be used, and puts the kinds of answers into the queue ``found``."""
    sent = load(port, "/score", bad_bodies(), BAD_RATE, seconds, 4)
    found.put((len(sent.milliseconds), sorted(set(sent.errors))))


def beside_bad(
    bundle: Bundle, own: list[str], arguments: argparse.Namespace, core: int | None
) -> tuple[dict[str, Any], list[str]]:
    """p50 and p99 of requests of one candidate, alone and beside requests that cannot be used; and their wrong answers."""
    requests = make_requests(bundle, own, 1, DIFFERENT, 1, looked_up(arguments, bundle))
    context = multiprocessing.get_context("fork")
    answers: list[tuple[int, list[str]]] = []
    times: dict[str, list[NDArray[Any]]] = {"alone": [], "beside bad requests": []}
    with server(serve_command(bundle, arguments.port, 1, arguments.store), arguments.port, "/readyz", core):
        connection = Connection(arguments.port, "/score")
        bodies = [connection.request(one.columns()) for one in requests]

        def ask(call: int) -> None:
            if (status := connection.ask(bodies[call % DIFFERENT])) != 200:
                raise SystemExit(f"a request that can be used: status {status}")

        paced(ask, WARM_UP, RATE)
        for _ in range(arguments.repeats):
            for name, found in times.items():
                queue = context.Queue()
                seconds = arguments.requests / RATE
                sender = context.Process(target=_send_bad, args=(arguments.port, seconds + 1, queue))
                if name != "alone":
                    sender.start()
                    time.sleep(0.7)
                found.append(paced(ask, arguments.requests, RATE)[0])
                if name != "alone":
                    answers.append(queue.get(timeout=60))
                    sender.join()
    kinds = sorted({kind for _, of in answers for kind in of})
    measured: dict[str, Any] = {name: figures(of, "") for name, of in times.items()}
    for share in (50, 99):
        pairs = zip(times["beside bad requests"], times["alone"], strict=True)
        ratios = [float(np.percentile(bad, share) / np.percentile(alone, share)) for bad, alone in pairs]
        measured.setdefault("beside bad requests / alone", {})[f"p{share}"] = spread(ratios)
    print(f"bad requests: {sum(number for number, _ in answers)}, answers: {', '.join(kinds)}")
    # A connection whose body is refused before all of it has arrived is closed: the sender may see that alone.
    return measured, [k for k in kinds if k.startswith("status") and not k.startswith("status 4")]


def bundle_of(arguments: argparse.Namespace) -> Bundle:
    """The bundle that is named, or the latest of the data root."""
    if arguments.bundle:
        return Bundle.open(arguments.bundle.resolve())
    folders = sorted(arguments.data_root.glob("training/*/bundle"))
    if not folders:
        raise SystemExit(f"{arguments.data_root}: has no bundle; run `make demo` first, or name one with --bundle")
    return Bundle.open(folders[-1].resolve())


def main() -> int:
    """Measure, print, and judge where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data/ads"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--store", type=Path, help="snapshots of history features; by default those of the data root")
    parser.add_argument(
        "--own",
        nargs="*",
        help="features that each candidate has of its own; by default those that the bundle declares, or all",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500, help="of a repeat")
    parser.add_argument("--port", type=int, default=18_710, help="the first of two that are free")
    parser.add_argument("--only", choices=["in process", "http"])
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--load-candidates", type=int, default=1)
    parser.add_argument("--load-seconds", type=float, default=LOAD_SECONDS)
    parser.add_argument("--bad", action="store_true", help="these figures alone")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--assert", dest="judged", action="store_true")
    arguments = parser.parse_args()
    bundle = bundle_of(arguments)
    online = arguments.data_root / "online"
    if arguments.store is None and not arguments.bundle and online.is_dir():
        arguments.store = online
    arguments.store = arguments.store.resolve() if arguments.store else None
    own = arguments.own or list(bundle.layout.candidate_features) or [name for name in bundle.inputs if name != "ts"]
    cores = sorted(os.sched_getaffinity(0))
    print(machine(("onnxruntime", "numpy", "fastapi", "uvicorn", "pydantic")))
    found: dict[str, Any] = {}
    wrong: list[str] = []
    if arguments.bad:
        os.sched_setaffinity(0, {cores[0]})
        measured, wrong = beside_bad(bundle, own, arguments, cores[-1])
        found |= measured
    if arguments.only != "http" and not arguments.bad:
        os.sched_setaffinity(0, {cores[-1]})
        found |= in_process(bundle, own, arguments)
    if arguments.only != "in process" and not arguments.bad:
        os.sched_setaffinity(0, {cores[0]})
        found |= by_http(bundle, own, arguments, cores[-1])
    os.sched_setaffinity(0, cores)
    for line, values in found.items():
        shown = ", ".join(
            f"{name} {middle:.2f} ({low:.2f} to {high:.2f})" for name, (middle, low, high) in values.items()
        )
        print(f"{line}: {shown}")
    wrong += [
        line for (way, n), most in MOST.items() if (line := f"{way}, N = {n}") in found and found[line]["p99"][0] > most
    ]
    if arguments.load:
        found["load"] = under_load(bundle, own, arguments)
        print("load:", json.dumps(found["load"]))
        wrong += ["load"] if found["load"]["errors"] else []
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if wrong:
        print("above the limit: " + "; ".join(wrong))
    return int(arguments.judged and bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
