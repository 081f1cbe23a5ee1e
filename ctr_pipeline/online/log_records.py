"""Records of served requests in files: each with its length and a checksum, so that a torn one is never half read.

A segment is :data:`MAGIC`, then records. A record is the length of its content and the CRC-32 of it (both unsigned, 32 bits,
little-endian), then the content: the length of a JSON header, the header, and four arrays, little-endian and row by row:
numeric [N, D] float32, ids [N, F] int32, logits and probabilities [N, T] float32.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

MAGIC = b"CTRLOG1\n"
WRITTEN, SEALED = ".part", ".segment"
"""Ending of the file that a process writes to, and of one that is complete."""

_FRAME, _HEADER = struct.Struct("<II"), struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRequest:
    """One request of N candidates as it is stored."""

    record: int
    """Number of the request in its segment."""
    request_id: str
    """Keyed hash of the sender's id, or an id that was made."""
    ts: Sequence[int]
    """[N] times of the impressions, or N times that of the request's arrival; microseconds since 1970 UTC."""
    impression_ids: Sequence[str | None] | None
    """[N] keyed hashes, as in the table `impressions`; None where the request had none."""
    arm: str
    model_sha: str
    snapshot: str
    numeric: NDArray[np.float32]
    """[N, D]"""
    ids: NDArray[np.int32]
    """[N, F]"""
    logits: NDArray[np.float32]
    """[N, T]"""
    probabilities: NDArray[np.float32]
    """[N, T]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A file of records."""

    path: Path
    sealed: bool
    """Whether nothing is added to it any more."""

    @property
    def name(self) -> str:
        """What the file is called while it is written and afterwards."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """The readable records of a segment."""

    requests: Sequence[LoggedRequest]
    unread_bytes: int
    """Bytes behind the last whole record: of one that was being written when its process ended, or that was damaged."""


def record_of(request: LoggedRequest) -> bytes:
    """The record of a request."""
    one_time = len(set(request.ts)) == 1
    header = orjson.dumps(
        {
            "record": request.record,
            "request_id": request.request_id,
            "ts": request.ts[0] if one_time else list(request.ts),
            "impression_ids": None if request.impression_ids is None else list(request.impression_ids),
            "arm": request.arm,
            "model_sha": request.model_sha,
            "snapshot": request.snapshot,
            "shape": [*request.numeric.shape, request.ids.shape[1], request.logits.shape[1]],
        }
    )
    arrays = (
        np.ascontiguousarray(request.numeric, "<f4"),
        np.ascontiguousarray(request.ids, "<i4"),
        np.ascontiguousarray(request.logits, "<f4"),
        np.ascontiguousarray(request.probabilities, "<f4"),
    )
    content = b"".join((_HEADER.pack(len(header)), header, *(array.tobytes() for array in arrays)))
    return _FRAME.pack(len(content), zlib.crc32(content)) + content


def read_segment(path: Path) -> SegmentContent:
    """The whole records of a segment, up to the first that is not."""
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        return SegmentContent((), len(data))
    requests, at = [], len(MAGIC)
    for content, end in _contents(data, at):
        requests.append(_request_of(content))
        at = end
    return SegmentContent(requests, len(data) - at)


def segments(folder: Path) -> list[Segment]:
    """The segments below ``folder``, by name.

    One whose process has ended without sealing it is sealed here.
    """
    found = []
    for path in sorted(folder.glob(f"*{WRITTEN}")):
        sealed = _sealed_where_abandoned(path)
        found.append(Segment(path=path if sealed is None else sealed, sealed=sealed is not None))
    # Afterwards: one that was sealed meanwhile is there under its new name, and stands once.
    names = {segment.name: segment for segment in found}
    for path in folder.glob(f"*{SEALED}"):
        names[path.stem] = Segment(path=path, sealed=True)
    return [names[name] for name in sorted(names)]


def _contents(data: bytes, at: int) -> Iterator[tuple[memoryview, int]]:
    view = memoryview(data)
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        start, end = at + _FRAME.size, at + _FRAME.size + length
        if end > len(data) or zlib.crc32(view[start:end]) != checksum:
            return
        yield view[start:end], end
        at = end


def _request_of(content: memoryview) -> LoggedRequest:
    (length,) = _HEADER.unpack_from(content)
    header: dict[str, Any] = orjson.loads(content[_HEADER.size : _HEADER.size + length])
    rows, numbers, ids, tasks = header.pop("shape")
    at, arrays = _HEADER.size + length, []
    for kind, width in (("<f4", numbers), ("<i4", ids), ("<f4", tasks), ("<f4", tasks)):
        arrays.append(np.frombuffer(content, kind, rows * width, at).reshape(rows, width))
        at += 4 * rows * width
    ts = header.pop("ts")
    numeric, rows_of_tables, logits, probabilities = arrays
    return LoggedRequest(
        ts=ts if isinstance(ts, list) else [ts] * rows,
        numeric=numeric,
        ids=rows_of_tables,
        logits=logits,
        probabilities=probabilities,
        **header,
    )


def _sealed_where_abandoned(path: Path) -> Path | None:
    """The sealed segment, where no process holds the lock of ``path`` any more; None where one does, or it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sealed = path.with_suffix(SEALED)
            os.rename(path, sealed)
            return sealed
    except (BlockingIOError, FileNotFoundError):
        return None
