"""The processes of `ctr serve`: one that listens and watches, and those that answer.

The first loads what the others need and no model, and the others are copies of it (fork). So one that was killed is
replaced within a second, and all share the memory of the libraries.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from uvicorn import Config
from uvicorn._subprocess import subprocess_started
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from ctr_pipeline.training.process import die_with_parent

SERVICE = "ctr_pipeline.commands.serve:worker_service"
"""What each process that answers makes."""

STOP_SECONDS = 10
"""Requests that are under way when the service is stopped have so long to be answered."""

HEADER_SECONDS = 5.0
"""Time in which the headers of a request must have arrived, from its first byte or from the start of the connection."""

IDLE_SECONDS = 75
"""Time that a connection stays open without a request: senders keep connections, and one that closes as a request is sent
fails it."""


class HeaderTimeout(HttpToolsProtocol):
    """Closes connections on which the headers of a request arrive too slowly, which uvicorn would await for ever."""

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection begins."""
        super().connection_made(transport)
        self._await_headers()

    def on_message_begin(self) -> None:
        """The first byte of a request is there."""
        super().on_message_begin()
        if self._headers_due is None:
            self._await_headers()

    def on_headers_complete(self) -> None:
        """All headers of a request are there."""
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._headers_due = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _give_up(self) -> None:
        self._headers_due = None
        # An answer that is under way is sent first: the headers may be those of a request after it.
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def run_processes(host: str, port: int, workers: int, watch: Callable[[], None] | None) -> None:
    """Serves until SIGINT or SIGTERM; a process that dies is replaced.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        workers: Processes that answer.
        watch: Called about twice a second.
    """
    # Loaded before the processes are copied. None of it starts a thread, and no model is opened here.
    import onnxruntime  # noqa: F401

    import ctr_pipeline.serving.http  # noqa: F401

    config = Config(
        SERVICE, factory=True, host=host, port=port, workers=workers, loop="uvloop", http=HeaderTimeout,
        access_log=False, log_level="warning", server_header=False, lifespan="on", ws="none",
        timeout_graceful_shutdown=STOP_SECONDS, timeout_keep_alive=IDLE_SECONDS,
    )  # fmt: skip
    sock = config.bind_socket()
    try:
        _Supervisor(config, [sock], watch).run()
    finally:
        sock.close()


class _Supervisor(Multiprocess):
    """Starts the processes that answer, and replaces those that die."""

    def __init__(self, config: Config, sockets: list[socket.socket], watch: Callable[[], None] | None) -> None:
        super().__init__(config, sockets)
        self._watch = watch

    def init_processes(self) -> None:
        for _ in range(self.processes_num):
            self.processes.append(self._started())

    def keep_subprocess_alive(self) -> None:
        if self.should_exit.is_set():
            return
        if self._watch is not None:
            self._watch()
        for at, process in enumerate(self.processes):
            if not process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                process.kill()
                process.join()
                self.processes[at] = self._started()

    def _started(self) -> Process:
        process = _Forked(self.config, self.sockets)
        process.start()
        return process


class _Forked(Process):
    """A process that answers, as a copy of this one."""

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        arguments = {"config": config, "target": self.target, "sockets": sockets, "stdin_fileno": None}
        # Of the type of a spawned process, which it replaces.
        self.process: Any = multiprocessing.get_context("fork").Process(target=_answer, args=(os.getpid(), arguments))


def _answer(parent: int, arguments: dict[str, Any]) -> None:
    """Answers requests until the parent ends or says so."""
    die_with_parent()
    if os.getppid() != parent:
        # It ended before the kernel was asked to tell.
        os._exit(1)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    subprocess_started(**arguments)
