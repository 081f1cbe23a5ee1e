"""Batches from memory-mapped arrays: a random permutation for each epoch, one thread that reads ahead."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.adapters.batch import BatchView, content_hash
from ctr_pipeline.gradients.adapters.inputs import InputCheck
from ctr_pipeline.losses.multi_task import SettledDelays, settled_delays

AHEAD = 2
"""Batches that are read before they are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """This process's part of every batch: part ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part of ``rows``; the parts of all processes are equal to within one row."""
        return rows[self.rank :: self.world]

    def interval(self, rows: int) -> tuple[int, int]:
        """First row and end of this process's part of ``rows`` consecutive rows."""
        return rows * self.rank // self.world, rows * (self.rank + 1) // self.world


def epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the rows in ``epoch``: depends on nothing else, so any position can be returned to."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order: NDArray[np.int64] = torch.randperm(rows, generator=generator).numpy()
    return order


def batches_per_epoch(rows: int, batch_size: int) -> int:
    """Number of batches of at most ``batch_size`` rows that ``rows`` rows need."""
    return -(-rows // batch_size)


def batch_bounds(rows: int, batch_size: int, batch: int) -> tuple[int, int]:
    """First position and end of ``batch`` in an epoch's order.

    The batches of an epoch are equal to within one row: a small rest as the last batch would take a whole step on the
    noise of a few rows.
    """
    batches = batches_per_epoch(rows, batch_size)
    return rows * batch // batches, rows * (batch + 1) // batches


def gather(split: PackedSplit, rows: NDArray[np.int64]) -> BatchView:
    """Copy ``rows`` of the arrays into tensors. numpy gathers: torch would start a second thread pool in the reader."""
    return BatchView(
        numeric=torch.from_numpy(np.take(split.numeric, rows, axis=0)),
        ids=torch.from_numpy(np.take(split.ids, rows, axis=0)),
        labels=torch.from_numpy(np.take(split.labels, rows, axis=0)),
        weights=torch.from_numpy(np.take(split.weights, rows, axis=0)),
        rows=torch.from_numpy(rows),
        position=torch.from_numpy(np.take(split.position, rows)),
        elapsed=None if split.elapsed is None else torch.from_numpy(np.take(split.elapsed, rows, axis=0)),
        delay=None if split.delay is None else torch.from_numpy(np.take(split.delay, rows, axis=0)),
    )


def delays_of(split: PackedSplit) -> SettledDelays | None:
    """How long the outcomes of the split's settled labels took; None where that was not packed."""
    return None if split.delay is None else settled_delays(split.labels, split.delay)


def to_device(batch: BatchView, device: torch.device) -> BatchView:
    """The batch on ``device``; the copy to a GPU does not wait."""
    if device.type == "cpu":
        return batch

    def move(tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(device, non_blocking=True)

    return replace(batch.each(move), rows=batch.rows)


class BatchLoader:
    """The batches of one epoch from a given step on; a context manager that ends its thread.

    Args:
        split: The training rows.
        batch_size: Most rows of a batch over all processes; the batches of an epoch are of equal size.
        shard: This process's part.
        seed: Seed of the run.
        epoch: Epoch, from 0.
        first: Batches to leave out, those before a resumed position.
        inputs: Looks at each batch in the thread that reads it, where its values lie in the cache; their hash is taken there too.
    """

    def __init__(
        self,
        split: PackedSplit,
        batch_size: int,
        shard: Shard,
        seed: int,
        epoch: int,
        first: int,
        inputs: InputCheck | None = None,
    ) -> None:
        self._inputs = inputs
        self._split = split
        self._batch_size = batch_size
        self._shard = shard
        self._start = (seed, epoch, first)
        self._queue: queue.Queue[BatchView | BaseException | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="batch reader", daemon=True)

    def __enter__(self) -> Iterator[BatchView]:
        self._thread.start()
        return self._batches()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            # The thread may be waiting to put an item into the full queue.
            try:
                self._queue.get(timeout=0.01)
            except queue.Empty:
                self._thread.join(0.01)

    def _batches(self) -> Iterator[BatchView]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _read(self) -> None:
        seed, epoch, first = self._start
        try:
            order = epoch_order(len(self._split), seed, epoch)
            for batch in range(first, batches_per_epoch(len(order), self._batch_size)):
                if self._stopped.is_set():
                    return
                start, end = batch_bounds(len(order), self._batch_size, batch)
                read = gather(self._split, self._shard.of(order[start:end]))
                if self._inputs is not None:
                    read = replace(read, faulty=self._inputs.is_faulty(read), content=content_hash(read))
                self._queue.put(read)
            self._queue.put(None)
        except BaseException as error:  # handed to the consumer, which raises it
            self._queue.put(error)
