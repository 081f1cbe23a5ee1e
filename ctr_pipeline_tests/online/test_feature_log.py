"""The log of served requests: what is written is read, whatever happens to the process in between."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.online import log_records
from ctr_pipeline.online.feature_log import FeatureLog, LogLimits, logged_request, sampled
from ctr_pipeline.online.log_records import MAGIC, SEALED, WRITTEN, read_segment, record_of, segments
from ctr_pipeline.online.logged_rows import fetch_segments, matrix_of, merged_rows, remove_segments, rows_of
from ctr_pipeline_tests.online.requests import made_request

DAY = date(2026, 1, 1)
DAY_US = 86_400_000_000


def hashed(text: str) -> str:
    return f"h({text})"


def opened(folder: Path, counts: "Counter[str]", **limits: float) -> FeatureLog:
    def count(outcome: str) -> None:
        counts[outcome] += 1

    return FeatureLog(
        folder, LogLimits(**{"rate": 1.0, **limits}),  # type: ignore[arg-type]
        pseudonym=hashed, now=lambda: 77, clock=time.monotonic, count=count,
    )  # fmt: skip


def logged(number: int, rows: int = 3) -> bytes:
    return record_of(logged_request(made_request(number, rows), number, 0, hashed))


def test_what_was_served_is_what_is_read(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    log, requests = opened(tmp_path, counts), [made_request(n, rows=n % 4 + 1, named=n % 2 == 0) for n in range(20)]
    for request in requests:
        log.offer(request)
    log.close()
    [segment] = segments(tmp_path)
    found = read_segment(segment.path)
    assert (counts, found.unread_bytes, segment.sealed) == ({"written": 20}, 0, True)
    for number, (request, read) in enumerate(zip(requests, found.requests, strict=True)):
        assert read.record == number
        np.testing.assert_array_equal(read.numeric, request.numeric)
        np.testing.assert_array_equal(read.ids, request.ids)
        np.testing.assert_array_equal(read.logits, request.scores.logits)
        np.testing.assert_array_equal(read.probabilities, request.scores.probabilities)
        assert read.ts == [request.ts] * len(request.numeric)
        if request.request_id is None:
            assert (len(read.request_id), read.impression_ids) == (32, None)
        else:
            assert read.request_id == hashed(request.request_id)
            assert read.impression_ids == [hashed(str(text)) for text in request.impression_ids or ()]


def test_a_request_without_a_time_has_that_of_its_arrival(tmp_path: Path) -> None:
    log = opened(tmp_path, Counter())
    log.offer(made_request(1, ts=None))
    log.close()
    assert read_segment(segments(tmp_path)[0].path).requests[0].ts == [77, 77, 77]


@given(cut=st.integers(0, 2000), flipped=st.integers(0, 2000), damage=st.booleans())
def test_of_a_torn_or_damaged_segment_the_whole_records_are_read(cut: int, flipped: int, damage: bool) -> None:
    records = [logged(n, rows=n % 3 + 1) for n in range(6)]
    data = bytearray(MAGIC + b"".join(records))
    if damage:
        at = len(MAGIC) + flipped % (len(data) - len(MAGIC))
        data[at] ^= 0x10
    else:
        at = cut % len(data)
        del data[at:]
    path = Path(tempfile.gettempdir()) / f"cut-{os.getpid()}.segment"
    path.write_bytes(data)
    found = read_segment(path)
    path.unlink()
    ends = np.cumsum([len(MAGIC), *(len(record) for record in records)])
    whole = max(0, int((ends <= at).sum()) - 1)
    assert [request.record for request in found.requests] == list(range(whole))
    assert found.unread_bytes == len(data) - (ends[whole] if at >= len(MAGIC) else 0)


def test_a_full_queue_drops_and_counts_and_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, counts = threading.Event(), Counter[str]()
    written = os.write
    monkeypatch.setattr(os, "write", lambda file, data: (go.wait(20), written(file, data))[1])
    request = made_request(1)
    size = request.numeric.nbytes + request.ids.nbytes
    log = opened(tmp_path, counts, queue_bytes=5 * size)
    log.offer(request)
    deadline = time.monotonic() + 10
    while log._waiting and time.monotonic() < deadline:
        time.sleep(0.001)
    start = time.perf_counter()
    for _ in range(1000):
        log.offer(request)
    took = time.perf_counter() - start
    assert (counts["queue_full"], took < 2) == (995, True)
    go.set()
    log.close()
    assert counts == {"queue_full": 995, "written": 6}
    assert len(read_segment(segments(tmp_path)[0].path).requests) == 6


def test_a_full_spool_drops_and_counts(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    log = opened(tmp_path, counts, spool_bytes=3 * len(logged(1)))
    for _ in range(10):
        log.offer(made_request(1))
    log.close()
    assert counts == {"written": 3, "spool_full": 7}


def test_a_failed_write_leaves_whole_records_and_the_next_ones_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, calls, written = Counter[str](), Counter[str](), os.write

    def broken(file: int, data: bytes) -> int:
        calls["writes"] += 1
        if calls["writes"] == 3:
            written(file, bytes(data)[:40])
            raise OSError(28, "no space")
        return written(file, data)

    monkeypatch.setattr(os, "write", broken)
    log = opened(tmp_path, counts)
    for number in range(5):
        log.offer(made_request(number))
    log.close()
    found = read_segment(segments(tmp_path)[0].path)
    assert (counts, found.unread_bytes) == ({"written": 4, "failed": 1}, 0)
    assert [r.request_id for r in found.requests] == [hashed(f"request-{n}") for n in (0, 2, 3, 4)]


def test_segments_are_sealed_by_size_and_hold_each_request_once(tmp_path: Path) -> None:
    log = opened(tmp_path, Counter(), segment_bytes=5 * len(logged(1)))
    for number in range(23):
        log.offer(made_request(number))
    log.close()
    found = segments(tmp_path)
    ids = [r.request_id for segment in found for r in read_segment(segment.path).requests]
    assert len(found) == 5
    assert sorted(ids) == sorted(hashed(f"request-{n}") for n in range(23))


def test_the_share_that_is_logged_is_the_rate_and_the_same_in_every_process() -> None:
    chosen = [sampled(f"r{n}", 0.3) for n in range(20_000)]
    assert abs(np.mean(chosen) - 0.3) < 0.015
    assert chosen[:100] == [sampled(f"r{n}", 0.3) for n in range(100)]
    # Who is logged at a low rate is logged at a higher one.
    assert all(sampled(f"r{n}", 0.5) for n in range(20_000) if chosen[n])
    assert abs(np.mean([sampled(None, 0.3) for _ in range(20_000)]) - 0.3) < 0.02
    assert not any(sampled(f"r{n}", 0.0) for n in range(100))


WRITER = """
import itertools, sys, time
from pathlib import Path
from ctr_pipeline.online.feature_log import FeatureLog, LogLimits
from ctr_pipeline_tests.online.requests import made_request
log = FeatureLog(Path(sys.argv[1]), LogLimits(rate=1.0, segment_bytes=40_000), pseudonym=str.upper, now=lambda: 0,
                 clock=time.monotonic, count=lambda outcome: print(outcome, flush=True))
for number in itertools.count():
    log.offer(made_request(number, rows=20))
    time.sleep(0.0002)
"""


def test_a_killed_process_leaves_whole_records_in_order(tmp_path: Path) -> None:
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(60 + 37 * attempt):
            assert process.stdout.readline() == "written\n"
        held = segments(folder)
        assert [segment.sealed for segment in held].count(False) <= 1, "the one that is written to is left alone"
        process.send_signal(signal.SIGKILL)
        counted = 60 + 37 * attempt + len(process.stdout.readlines())
        process.wait()
        found = segments(folder)
        assert found
        assert all(segment.sealed and segment.path.suffix == SEALED for segment in found)
        assert not list(folder.glob(f"*{WRITTEN}"))
        ids = [r.request_id for segment in found for r in read_segment(segment.path).requests]
        assert ids == [f"REQUEST-{n}" for n in range(len(ids))]
        # What was counted is there; of the next one it may not have been counted yet.
        assert counted <= len(ids) <= counted + 1


def test_rows_of_several_days_and_layouts(tmp_path: Path) -> None:
    log = opened(tmp_path, Counter())
    for number in range(6):
        request = made_request(number, numbers=4 + number % 2, ts=1_767_225_600_000_000 + number % 3 * DAY_US)
        log.offer(request)
    log.close()
    fetched = fetch_segments(segments(tmp_path), [DAY])
    assert fetched.rows["day"].unique().to_list() == [DAY]
    assert fetched.rows["record"].to_list() == [0, 0, 0, 3, 3, 3]
    [others] = fetched.other_days.values()
    assert others == {date(2026, 1, 2): 6, date(2026, 1, 3): 6}
    one = fetched.rows.filter(fetched.rows["record"] == 3)
    np.testing.assert_array_equal(matrix_of(one["numeric"], 5, np.float32), made_request(3, numbers=5).numeric)
    np.testing.assert_array_equal(matrix_of(one["ids"], 3, np.int64), made_request(3, numbers=5).ids)


def test_a_day_that_is_fetched_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path, Counter())
    for number in range(5):
        log.offer(made_request(number, ts=1_767_225_600_000_000 + number % 2 * DAY_US))
    log.close()
    first = fetch_segments(segments(tmp_path), [DAY])
    table = merged_rows(rows_of([], ""), first.rows)
    assert remove_segments(first, {}, kept_after=0) == 0, "it has rows of another day"
    assert merged_rows(table, fetch_segments(segments(tmp_path), [DAY]).rows).equals(table)
    [name] = first.other_days
    assert remove_segments(first, {(name, date(2026, 1, 2)): 6}, kept_after=0) == 1
    assert segments(tmp_path) == []
    assert merged_rows(table, fetch_segments(segments(tmp_path), [DAY]).rows).equals(table)


def test_a_segment_of_days_that_nobody_asks_for_goes_in_the_end(tmp_path: Path) -> None:
    log = opened(tmp_path, Counter())
    log.offer(made_request(1))
    log.close()
    fetched = fetch_segments(segments(tmp_path), [date(2025, 1, 1)])
    assert remove_segments(fetched, {}, kept_after=time.time() - 60) == 0
    assert remove_segments(fetched, {}, kept_after=time.time() + 60) == 1


def test_a_file_of_something_else_is_no_segment(tmp_path: Path) -> None:
    path = tmp_path / f"x{SEALED}"
    path.write_bytes(b"something")
    assert read_segment(path) == log_records.SegmentContent((), 9)
