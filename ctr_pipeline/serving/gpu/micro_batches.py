"""Requests that arrive close together are scored in one run."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class MicroBatches(Generic[Request, Answer]):
    """Collects requests for at most ``delay`` seconds, or until there are ``most``, and runs them together.

    While a run is under way the next requests gather, so that under load no request waits for the delay. A run that
    fails is repeated request by request: only those that fail alone get an error.

    Args:
        run: Answers several requests, in their order. It is called in the executor, one call at a time.
        most: Requests of one run.
        delay: Seconds that the first request waits for others; 0 for none.
        executor: Its threads compute while the event loop goes on.
    """

    def __init__(
        self, run: Callable[[Sequence[Request]], Sequence[Answer]], *, most: int, delay: float, executor: Executor
    ) -> None:
        self._run, self._most, self._delay, self._executor = run, most, delay, executor
        self._waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        self._full = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def answer(self, request: Request) -> Answer:
        """The answer to one request; raises what its run raised."""
        found: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, found))
        if len(self._waiting) >= self._most:
            self._full.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await found

    async def _work(self) -> None:
        waited = False
        while self._waiting:
            if self._delay and not waited and len(self._waiting) < self._most:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._delay)
            waited = True
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            if len(self._waiting) < self._most:
                self._full.clear()
            # A sender who left waits no more.
            await self._answer([(request, found) for request, found in batch if not found.done()])

    async def _answer(self, batch: list[tuple[Request, "asyncio.Future[Answer]"]]) -> None:
        if not batch:
            return
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._executor, self._run, [request for request, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                if not batch[0][1].done():
                    batch[0][1].set_exception(error)
                return
            for one in batch:
                await self._answer([one])
            return
        for (_, found), answer in zip(batch, answers, strict=True):
            if not found.done():
                found.set_result(answer)
