"""Requests for a bundle, made of its vocabulary and statistics, and a client that sends them at a steady rate."""

import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.request_encoding import TIME

SPIN = 0.0005
"""Seconds before a request is due from which on the client waits without sleeping, so that it is not late."""


@dataclass(frozen=True)
class Request:
    """What all candidates have, and by feature a value for each candidate."""

    shared: dict[str, Any]
    candidates: dict[str, list[Any]]

    def columns(self) -> bytes:
        """The body for ``POST /score``."""
        return orjson.dumps({"shared": self.shared, "candidates": self.candidates})

    def rows(self) -> bytes:
        """The body for an endpoint that takes rows."""
        count = len(next(iter(self.candidates.values())))
        own = [{name: values[at] for name, values in self.candidates.items()} for at in range(count)]
        return orjson.dumps({"rows": [self.shared | row for row in own]})


def make_requests(
    bundle: Bundle, own: Collection[str], candidates: int, number: int, seed: int, left_out: Collection[str] = ()
) -> list[Request]:
    """Requests of ``candidates`` candidates each, whose values are those of the vocabulary and of the training's statistics.

    One number in twenty is missing, and one category in twenty is unknown.

    Args:
        bundle: The model.
        own: Features that each candidate has of its own; at least one.
        candidates: Candidates of a request.
        number: Requests.
        seed: Decides the values.
        left_out: Features that the requests do not hold.
    """
    rng = np.random.default_rng(seed)
    keys = {column.name: list(bundle.vocabulary[column.vocabulary]) for column in bundle.layout.ids}
    found = []
    for _ in range(number):
        shared: dict[str, Any] = {}
        mine: dict[str, list[Any]] = {}
        for name, kind in bundle.inputs.items():
            if name == TIME or name in left_out:
                continue
            count = candidates if name in own else 1
            length = 0 if not kind.startswith("[") else 5
            size = count * max(length, 1)
            if "string" in kind:
                at = rng.integers(0, len(keys[name]), size)
                flat = [
                    keys[name][place] if drawn > 0.05 else "new"
                    for place, drawn in zip(at, rng.random(size), strict=True)
                ]
            else:
                column = next(one for one in bundle.layout.numeric if one.feature == name)
                drawn = column.mean + column.std * rng.normal(size=size)
                raw = np.expm1(np.abs(drawn)) if column.transform == "signed_log1p" else drawn
                missing = rng.random(size) < 0.05 if not length else np.zeros(size, dtype=bool)
                flat = [None if gone else round(float(value), 4) for value, gone in zip(raw, missing, strict=True)]
            values = flat if not length else [flat[first : first + length] for first in range(0, size, length)]
            if name in own:
                mine[name] = values
            else:
                shared[name] = values[0]
        found.append(Request(shared, mine))
    return found


def paced(work: Callable[[int], None], number: int, rate: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Milliseconds that ``work`` took, by the clock and of processor time, called ``number`` times at ``rate`` a second.

    The clock starts when a call is due, so that one that waits for the one before it is slow too.
    """
    clock, used = np.empty(number), np.empty(number)
    start = time.perf_counter() + 0.01
    for call in range(number):
        due = start + call / rate
        wait_until(due)
        before = time.thread_time()
        work(call)
        clock[call], used[call] = time.perf_counter() - due, time.thread_time() - before
    return 1e3 * clock, 1e3 * used


def wait_until(due: float) -> None:
    """Returns at ``due``, a time of ``time.perf_counter``."""
    left = due - time.perf_counter()
    if left > SPIN:
        time.sleep(left - SPIN)
    while time.perf_counter() < due:
        pass


class Connection:
    """A connection of its own that is kept open; bodies are ready bytes, and of an answer only the status is looked at.

    Args:
        port: Where the service listens on 127.0.0.1.
        path: Path of its requests.
    """

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"POST {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\n"

    def request(self, body: bytes) -> bytes:
        """The bytes that ask for ``body``."""
        return f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def ask(self, request: bytes) -> int:
        """The status of the answer, when all of it has arrived."""
        self.socket.sendall(request)
        got = self.socket.recv(1 << 20)
        while (end := got.find(b"\r\n\r\n")) < 0:
            got += self._more()
        head = got[:end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        missing = end + 4 + length - len(got)
        while missing > 0:
            missing -= len(self._more())
        return int(head[9:12])

    def _more(self) -> bytes:
        part = self.socket.recv(1 << 20)
        if not part:
            raise ConnectionError("the service closed the connection")
        return part


@dataclass
class Load:
    """What came of a load: milliseconds of each request, and what was no answer with scores."""

    milliseconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def load(port: int, path: str, bodies: Sequence[bytes], rate: float, seconds: float, connections: int) -> Load:
    """Asks at ``rate`` requests a second over some connections, each with a thread of its own that keeps to its times."""
    found, number = Load(), int(rate * seconds)
    start = time.perf_counter() + 0.5

    def ask(place: int) -> None:
        connection = Connection(port, path)
        requests = [connection.request(body) for body in bodies]
        for call in range(place, number, connections):
            due = start + call / rate
            if (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            try:
                status = connection.ask(requests[call % len(requests)])
                found.milliseconds.append(1e3 * (time.perf_counter() - due))
                if status != 200:
                    found.errors.append(f"status {status}")
            except (OSError, ValueError) as error:
                found.errors.append(type(error).__name__)
                connection = Connection(port, path)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
