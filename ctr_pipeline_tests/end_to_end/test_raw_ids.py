"""Raw ids that are sent to `ctr serve`, in whatever place, are afterwards in no file, metric, output or answer."""

import gzip
import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from ctr_pipeline.commands.release import Releases
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.lake import Lake
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.release import TrialMode
from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import CTR, environment, free_port
from ctr_pipeline_tests.end_to_end.list_runs import ListRun
from ctr_pipeline_tests.end_to_end.raw_id_search import leaks
from ctr_pipeline_tests.end_to_end.test_canary import register, same_again

TEXT, NUMBER, NAME = "canary-7f3a9c:ü@example", "874512365478123654", "u8842-canary"
"""Ids of users: with signs that are written in several ways, a whole number, and one that could be a field's name."""
DEVICE = "device-canary-51ce7e"
PAGES = 40
START = "2026-01-14"


class Sender:
    """Sends requests over sockets of its own, and keeps all that comes back."""

    def __init__(self, port: int) -> None:
        self.port, self.heard, self.statuses = port, list[bytes](), dict[int, int]()

    def raw(self, content: bytes, patience: float = 20) -> bytes:
        """The answer to some bytes; empty where the connection is closed without one."""
        got = b""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as connection:
                connection.sendall(content)
                while part := connection.recv(1 << 16):
                    got += part
        except OSError:
            pass
        self.heard.append(got)
        status = int(got[9:12]) if got[:5] == b"HTTP/" else 0
        self.statuses[status] = self.statuses.get(status, 0) + 1
        return got

    def post(self, path: str, content: Any, headers: str = "") -> bytes:
        """The answer to a POST."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "" if "content-type" in headers.lower() else "Content-Type: application/json\r\n"
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\n{kind}{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return self.raw(head.encode("utf-8") + body)


def wrong_places(raw: str, ts: int, model: str) -> Iterator[tuple[str, Any, str]]:
    """Path, body and headers of requests with an id where it belongs, and where nobody expects it."""
    whole = int(raw) if raw.isdecimal() else raw
    infer, happened = f"/v2/models/{model}/infer", ts - 3_600_000_000
    for value in (
        raw,
        whole,
        [raw],
        {raw: 1},
        {"id": raw},
        [[raw]],
        raw * 400,
        float(raw) if raw.isdecimal() else True,
    ):
        for name in ("user_id", "device_type", "ad_id", "price", "user", "ts", "recent", "viewers", raw):
            yield "/score", {"shared": {"ts": ts, name: value}}, ""
            yield "/score", {"shared": {"ts": ts}, "candidates": {name: [value], "price": [1.5]}}, ""
            yield infer, {"inputs": [{"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}]}, ""
    fine = {"shared": {"user_id": whole, "ts": ts}, "candidates": {"price": [1.0, 2.0], "ad_id": ["a1", raw]}}
    yield "/score", {**fine, "request_id": raw}, ""
    yield "/score", {**fine, "request_id": raw * 100}, ""
    yield "/score", {**fine, "candidates": {**fine["candidates"], "impression_id": [raw, whole]}}, ""
    yield "/score", {**fine, "candidates": {**fine["candidates"], "impression_id": [raw * 50, None]}}, ""
    yield "/score", {**fine, "candidates": {**fine["candidates"], raw: [1]}}, ""
    yield "/score", {**fine, "candidates": raw}, ""
    yield "/score", {**fine, "logits": raw}, ""
    yield "/score", {**fine, raw: raw}, ""
    yield "/score", {"shared": {raw: 1, "user_id": raw}}, ""
    yield "/score", json.dumps({"shared": {"user_id": raw}}).encode()[:-1] + b", " + json.dumps(raw).encode(), ""
    yield "/score", f'{{"shared": {{"{raw}": 1, "{raw}": 2}}}}'.encode(), ""
    yield "/score", f'{{"shared": {{"user_id": "{raw}", "user_id": "{raw}"}}}}'.encode(), ""
    yield "/score", b'{"shared": {"user_id": "' + raw.encode() + b'\xff"}}', ""
    yield "/score", f'{{"shared": {{"user_id": {raw}}}}}'.encode(), ""
    yield "/score", raw.encode(), ""
    yield infer, {"id": raw, "inputs": raw}, ""
    yield infer, {"inputs": [{"name": "user_id", "shape": [raw], "datatype": raw, "data": raw}]}, ""
    yield infer, {"inputs": [{"name": "user_id", "shape": [1], "datatype": "BYTES", "data": [raw], raw: 1}]}, ""
    yield (
        infer,
        {"inputs": [{"name": "price", "shape": [1], "datatype": "FP64", "data": [1]}], "outputs": [{"name": raw}]},
        "",
    )
    yield infer, {"inputs": [{"name": "user_id", "shape": [1], "datatype": "BYTES", "data": [raw]}] * 2, raw: 1}, ""
    yield infer, {"inputs": [{"name": raw, "shape": [1], "datatype": "BYTES", "data": ["x"]}] * 2}, ""
    yield f"/v2/models/{raw}/infer".replace("ü", "%C3%BC"), {"inputs": []}, ""
    shown = {"event": "impression", "impression_id": raw, "ts": happened, "keys": {"user": whole, "ad_id": raw}}
    yield "/events", {"events": [shown, {"event": "click", "impression_id": raw, "ts": happened + 1}]}, ""
    for changes in (
        {"event": raw}, {"impression_id": [raw]}, {"ts": raw}, {"keys": {raw: 1}}, {"keys": raw}, {raw: raw},
        {"keys": {"user": [raw]}}, {"keys": {"user": {raw: 1}}}, {"impression_id": raw * 200},
    ):  # fmt: skip
        yield "/events", {"events": [{**shown, **changes}]}, ""
    yield "/events", {"events": raw}, ""
    yield "/events", {raw: []}, ""
    query = raw.replace("ü", "%C3%BC")
    yield f"/score?user={query}", fine, ""
    yield f"/{query}", fine, ""
    for header in (
        f"X-User: {raw}", f"Authorization: Bearer {raw}", f"Content-Type: {raw}", f"Content-Encoding: {raw}", f"Cookie: user={raw}",
        f"User-Agent: {raw}", f"traceparent: {raw}", f"Content-Type: application/json; charset={raw}",
        f"Inference-Header-Content-Length: {raw}", f"X-Forwarded-For: {raw}", f"Expect: {raw}",
    ):  # fmt: skip
        yield "/score", fine, f"{header}\r\n"


def broken_lines(raw: str) -> list[bytes]:
    """What is no HTTP, or half of it."""
    some = raw.encode()
    return [
        some + b"\r\n\r\n", b"GET /" + some + b" HTTP/9.9\r\n\r\n", some + b" /score HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: " + some + b"\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\n" + some + b"\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + some + b"\r\n",
        b'POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"shared": {"user_id": "' + some,
    ]  # fmt: skip


@contextmanager
def serving(
    root: Path, config_home: Path, temporary: Path, output: Path
) -> Iterator[tuple[Sender, subprocess.Popen[bytes]]]:
    """`ctr serve` on two processes, whose temporary files and output are kept."""
    port = free_port()
    temporary.mkdir(exist_ok=True)
    with output.open("ab") as stream:
        process = subprocess.Popen(
            [str(CTR), "serve", "--data-root", str(root), "--port", str(port), "--workers", "2"],
            env=environment(config_home, {"TMPDIR": str(temporary)}), stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    sender = Sender(port)
    deadline = time.monotonic() + 120
    while b" 200 " not in sender.raw(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")[:20]:
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.3)
    sender.statuses.clear()
    try:
        yield sender, process
    finally:
        # One that was killed has taken the others with it.
        process.terminate()
        process.wait(30)


def pages_of(root: Path, names: set[str], count: int) -> list[dict[str, Any]]:
    """Requests with the raw rows of pages of a day, raw ids of users among them."""
    [logs] = (root.parent / "simulated_logs").iterdir()
    raw = pl.read_parquet(logs / "impressions" / f"{START}.parquet").with_columns(pl.col("ts").dt.epoch("us"))
    found = []
    for _, page in raw.group_by("session_id", "ts", maintain_order=True):
        same = [name for name in ("ts", *sorted(names)) if name in page.columns and page[name].n_unique() == 1]
        own = [name for name in sorted(names) if name in page.columns and name not in same]
        shared = {name: page[name][0] for name in same}
        found.append({"shared": shared, "candidates": page.select("impression_id", *own).to_dict(as_series=False)})
        if len(found) == count:
            break
    return found


@pytest.mark.nightly
def test_a_raw_id_that_is_sent_is_found_nowhere(
    list_run: ListRun, config_home: Path, ctr: Callable[..., Any], tmp_path: Path
) -> None:
    root = copy_root(list_run.data_root, tmp_path / "run")
    deployment = Deployment.load(root)
    releases = Releases.of(deployment, Environment.of({**os.environ, **environment(config_home)}))
    champion = Bundle.open(next(root.glob("training/*/bundle")))
    version = register(releases, same_again(champion, tmp_path / "other" / "bundle"))
    pages = pages_of(root, set(champion.inputs), PAGES)
    users = sorted({page["shared"]["user_id"] for page in pages})
    impressions = pages[0]["candidates"]["impression_id"]
    output, temporary, heard = tmp_path / "output.txt", tmp_path / "temporary", list[bytes]()
    ts = pages[0]["shared"]["ts"]
    for mode in (TrialMode.CANARY, TrialMode.SHADOW):
        releases.start(mode, version, 0.5, datetime.now(UTC))
        with serving(root, config_home, temporary, output) as (sender, process):
            for at, page in enumerate(pages):
                assert b" 200 " in sender.post("/score", {**page, "request_id": page["shared"]["user_id"]})[:20]
                now = time.time_ns() // 1000
                user = page["shared"]["user_id"]
                event = {"event": "impression", "impression_id": f"{user}-{at}", "ts": now, "keys": {"user": user}}
                assert b'"accepted":1' in sender.post("/events", {"events": [event]}) or mode is TrialMode.SHADOW
            for raw in (TEXT, NUMBER, NAME, DEVICE):
                for path, body, headers in wrong_places(raw, ts, champion.name):
                    sender.post(path, body, headers)
                for line in broken_lines(raw):
                    sender.raw(line, patience=1)
            assert max(sender.statuses) < 500, sender.statuses
            assert sender.statuses[200] > 100
            assert sender.statuses[400] > 300
            # One that answers is killed while it is asked, then all of them.
            for child in psutil.Process(process.pid).children():
                sender.post("/score", pages[0])
                child.send_signal(signal.SIGKILL)
            for path in ("/metrics", "/model", "/readyz", f"/v2/models/{champion.name}"):
                sender.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            sender.post("/score", pages[1])
            if mode is TrialMode.CANARY:
                process.send_signal(signal.SIGKILL)
            heard += sender.heard
    # What was logged is fetched and compared, and a user is forgotten.
    printed = [ctr("run", "--spec", list_run.spec, "--data-root", root)]
    log = Lake(root / "lake").scan("serving_log").collect()
    assert log.height > 5 * PAGES
    assert {"canary", "champion", "shadow"} & set(log["arm"].unique())
    assert Lake(root / "lake").exists("skew_report")
    ids = [TEXT, NUMBER, NAME, DEVICE, *users[:10], *map(str, impressions[:3])]
    folders = [root, temporary]
    texts = [*heard, output.read_bytes(), *(text.encode() for done in printed for text in (done.stdout, done.stderr))]
    assert leaks(folders, texts, ids) == []
    forgotten = ctr("forget", "--data-root", root, "--user", users[0], "--json", tmp_path / "forgotten.json")
    texts += [forgotten.stdout.encode(), (tmp_path / "forgotten.json").read_bytes()]
    assert leaks(folders, texts, ids) == []


def test_a_planted_id_is_found_in_every_kind_of_file(tmp_path: Path) -> None:
    """The control of the test above."""
    import hashlib

    import lmdb

    pl.DataFrame({"a": [[TEXT]] * 500}).write_parquet(tmp_path / "table.parquet", compression="zstd")
    with sqlite3.connect(tmp_path / "some.db") as database:
        database.execute("create table t (a text)")
        database.execute("insert into t values (?)", (TEXT,))
    (tmp_path / "packed.log.gz").write_bytes(gzip.compress(f"user {TEXT} failed".encode()))
    (tmp_path / "escaped.json").write_text(json.dumps([TEXT]))
    (tmp_path / "hash.txt").write_text(hashlib.sha256(TEXT.encode()).hexdigest())
    pl.DataFrame({"a": [int(NUMBER)] * 3}).write_parquet(tmp_path / "numbers.parquet", compression="zstd")
    with lmdb.open(str(tmp_path / "store"), max_dbs=2) as store:
        part = store.open_db(b"part")
        with store.begin(write=True) as writing:
            writing.put(b"user", TEXT.encode(), db=part)
    (tmp_path / "clean.txt").write_text("nothing of it")
    found = leaks([tmp_path], [b"nothing", f"{NAME}".encode()], [TEXT, NUMBER, NAME])
    named = {Path(line.split(": ", 1)[0]).name for line in found}
    assert named == {
        "table.parquet", "some.db", "packed.log.gz", "escaped.json", "hash.txt", "numbers.parquet", "data.mdb", "text 1",
    }  # fmt: skip
