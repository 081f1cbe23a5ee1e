"""Requests that arrive together are run together; each gets its own answer, soon, whatever becomes of the others."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from ctr_pipeline.serving.gpu import MicroBatches


class Doubling:
    """Doubles numbers; refuses a batch with a negative one."""

    def __init__(self, seconds: float = 0) -> None:
        self.batches: list[list[int]] = []
        self._seconds = seconds

    def run(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        time.sleep(self._seconds)
        if min(numbers) < 0:
            raise ValueError("negative")
        return [2 * number for number in numbers]


def gathered(doubling: Doubling, numbers: Sequence[int], *, most: int, delay: float) -> list[int | BaseException]:
    async def all_of_them() -> list[int | BaseException]:
        with ThreadPoolExecutor(1) as executor:
            batches = MicroBatches(doubling.run, most=most, delay=delay, executor=executor)
            return await asyncio.gather(*map(batches.answer, numbers), return_exceptions=True)

    return asyncio.run(all_of_them())


def test_each_gets_its_own_answer() -> None:
    doubling = Doubling()
    assert gathered(doubling, range(25), most=10, delay=0.001) == [2 * number for number in range(25)]
    assert [len(batch) for batch in doubling.batches] == [10, 10, 5]


def test_a_request_that_fails_fails_alone() -> None:
    found = gathered(Doubling(), [1, -1, 3], most=3, delay=1)
    assert found[0] == 2
    assert isinstance(found[1], ValueError)
    assert found[2] == 6


def test_a_lone_request_waits_no_longer_than_the_delay() -> None:
    async def lone() -> float:
        with ThreadPoolExecutor(1) as executor:
            batches = MicroBatches(Doubling().run, most=100, delay=0.01, executor=executor)
            await batches.answer(1)
            started = time.perf_counter()
            await batches.answer(2)
            return time.perf_counter() - started

    # Far below the delay times the requests that a run could take.
    assert 0.01 <= asyncio.run(lone()) < 0.5


def test_while_a_run_is_under_way_the_next_gather() -> None:
    async def two_waves() -> list[list[int]]:
        doubling = Doubling(0.05)
        with ThreadPoolExecutor(1) as executor:
            batches = MicroBatches(doubling.run, most=100, delay=0, executor=executor)
            first = asyncio.create_task(batches.answer(0))
            await asyncio.sleep(0.01)
            await asyncio.gather(*(batches.answer(number) for number in range(1, 6)), first)
        return doubling.batches

    assert asyncio.run(two_waves()) == [[0], [1, 2, 3, 4, 5]]


def test_a_sender_who_left_is_not_waited_for() -> None:
    async def leaves() -> tuple[int, list[list[int]]]:
        doubling = Doubling()
        with ThreadPoolExecutor(1) as executor:
            batches = MicroBatches(doubling.run, most=100, delay=0.02, executor=executor)
            gone = asyncio.create_task(batches.answer(7))
            stays = asyncio.create_task(batches.answer(8))
            await asyncio.sleep(0)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            return await stays, doubling.batches

    assert asyncio.run(leaves()) == (16, [[8]])
