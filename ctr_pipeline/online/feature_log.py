"""Writes served requests into segments, from a thread of its own: a request never waits for the disk."""

import fcntl
import hashlib
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctr_pipeline.online.log_records import MAGIC, SEALED, WRITTEN, LoggedRequest, record_of
from ctr_pipeline.serving.http.pseudonym_features import hashed_values
from ctr_pipeline.serving.http.served_request import ServedRequest
from ctr_pipeline.serving.request_values import BundleError

WRITTEN_OUT, QUEUE_FULL, SPOOL_FULL, FAILED = "written", "queue_full", "spool_full", "failed"
"""What became of a request that was to be logged."""

_CLOSED = 2.0
"""Seconds that closing waits for the thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """How much of the requests is logged, and what it may take."""

    rate: float
    """Share of the requests that are logged, chosen by a hash of their ids."""
    queue_bytes: int = 64 * 2**20
    """Size of the arrays that wait for the thread; requests beyond are not logged."""
    segment_bytes: int = 16 * 2**20
    """A segment is sealed when it is as large."""
    segment_seconds: float = 30.0
    """A segment is sealed when it is as old."""
    spool_bytes: int = 2**30
    """Size of all segments that were not fetched yet; requests beyond are not logged."""


@dataclass(slots=True)
class _Spool:
    """The segment that is written to."""

    folder: Path
    prefix: str = field(default_factory=lambda: secrets.token_hex(6))
    number: int = 0
    file: int = -1
    path: Path | None = None
    size: int = 0
    records: int = 0
    opened: float = 0.0

    def write(self, record: bytes, now: float) -> None:
        if self.file < 0:
            self._open(now)
        try:
            _write_all(self.file, record)
        except OSError:
            # Whole records only: what was written of this one is taken back.
            os.ftruncate(self.file, self.size)
            raise
        self.size += len(record)
        self.records += 1

    def _open(self, now: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            self.number += 1
            path = self.folder / f"{self.prefix}-{self.number:06d}{WRITTEN}"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            if _locked(file, path):
                break
            # A reader took the new file for an abandoned one.
            os.close(file)
        _write_all(file, MAGIC)
        self.file, self.path, self.size, self.records, self.opened = file, path, len(MAGIC), 0, now

    def seal(self) -> None:
        if self.file < 0:
            return
        assert self.path is not None, "set with the file"
        # Renamed under the lock, so that no reader takes it for an abandoned one.
        os.rename(self.path, self.path.with_suffix(SEALED))
        os.close(self.file)
        self.file, self.size, self.records = -1, 0, 0


class FeatureLog:
    """The log of one process.

    Args:
        folder: Where the segments go; several processes may share it.
        limits: Share of the requests, and sizes.
        pseudonym: Keyed hash of an id, as at ingestion.
        now: Microseconds since 1970 UTC.
        clock: Seconds that pass.
        count: Receives :data:`WRITTEN_OUT` or why a request was dropped.
    """

    def __init__(
        self,
        folder: Path,
        limits: LogLimits,
        *,
        pseudonym: Callable[[str], str],
        now: Callable[[], int],
        clock: Callable[[], float],
        count: Callable[[str], None],
    ) -> None:
        self._limits, self._pseudonym, self._now, self._clock, self._count = limits, pseudonym, now, clock, count
        self._spool = _Spool(folder)
        self._waiting: deque[tuple[ServedRequest, int]] = deque()
        self._bytes, self._ending = 0, False
        self._changed = threading.Condition()
        self._spool_bytes, self._measured = 0, -1e9
        self._thread = threading.Thread(target=self._work, name="feature-log", daemon=True)
        self._thread.start()

    def offer(self, request: ServedRequest) -> None:
        """Takes the request where it is among those to be logged and there is room; it never waits for the disk."""
        if not sampled(request.request_id, self._limits.rate):
            return
        size = request.numeric.nbytes + request.ids.nbytes
        with self._changed:
            full = self._bytes + size > self._limits.queue_bytes or self._ending
            if not full:
                self._waiting.append((request, self._now()))
                self._bytes += size
                self._changed.notify()
        if full:
            self._count(QUEUE_FULL)

    def close(self) -> None:
        """Writes what waits and seals the segment; nothing is logged afterwards."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(_CLOSED)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._ending:
                    self._changed.wait(self._limits.segment_seconds)
                batch, self._waiting = self._waiting, deque()
                self._bytes, ending = 0, self._ending
            for request, arrived in batch:
                self._count(self._written(request, arrived))
            old = self._clock() - self._spool.opened >= self._limits.segment_seconds
            if ending or old or self._spool.size >= self._limits.segment_bytes:
                self._spool.seal()
            if ending:
                return

    def _written(self, request: ServedRequest, arrived: int) -> str:
        try:
            if self._is_full():
                return SPOOL_FULL
            record = record_of(logged_request(request, self._spool.records, arrived, self._pseudonym))
            self._spool.write(record, self._clock())
            self._spool_bytes += len(record)
            if self._spool.size >= self._limits.segment_bytes:
                self._spool.seal()
        except (OSError, BundleError, ValueError):
            # Of one request; the next may be written, as when there is room on the disk again.
            return FAILED
        return WRITTEN_OUT

    def _is_full(self) -> bool:
        """Whether the segments of all processes take what they may; they are looked at every few seconds."""
        now = self._clock()
        if now - self._measured >= min(5.0, self._limits.segment_seconds):
            self._measured = now
            self._spool_bytes = _size_of(self._spool.folder)
        return self._spool_bytes >= self._limits.spool_bytes


def sampled(request_id: str | None, rate: float) -> bool:
    """Whether a request is logged: the same answer for the same id in every process; by chance without one."""
    if rate >= 1:
        return True
    if request_id is None:
        return secrets.randbits(64) < rate * 2**64
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest()) < rate * 2**64


def logged_request(request: ServedRequest, record: int, arrived: int, pseudonym: Callable[[str], str]) -> LoggedRequest:
    """What is stored of a request.

    Args:
        request: The request.
        record: Its number in the segment.
        arrived: When it arrived, microseconds.
        pseudonym: Keyed hash of an id.

    Raises:
        BundleError: an impression has no id of which ingestion would have made one.
    """
    rows = len(request.numeric)
    times = [request.ts] * rows if request.ts is None or isinstance(request.ts, int) else request.ts
    given = request.impression_ids
    return LoggedRequest(
        record=record,
        request_id=secrets.token_hex(16) if request.request_id is None else pseudonym(request.request_id),
        ts=[arrived if time is None else time for time in times],
        impression_ids=None if given is None else hashed_values(list(given), frozenset(), pseudonym, "`impression_id`"),
        arm=request.arm,
        model_sha=request.model_sha,
        snapshot=request.snapshot,
        numeric=request.numeric,
        ids=request.ids.astype(np.int32, copy=False),
        logits=request.scores.logits,
        probabilities=request.scores.probabilities,
    )


def _locked(file: int, path: Path) -> bool:
    """Whether the file is locked now, and still called so."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(file).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _size_of(folder: Path) -> int:
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # One that was fetched meanwhile is gone.
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        pass
    return total
