"""What the impressions of a canary have led to so far, by arm: one LMDB file for all processes of a service.

An impression is kept from its scoring for about an hour, under the digest of a keyed hash; sums stay as long as the trial.
The file is for the guardrails alone: it may lose the last moments of a process that is killed, of both arms alike.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np
import orjson
from numpy.typing import NDArray

from ctr_pipeline.online.event_facts import Arrived, known_outcomes
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event, FullError
from ctr_pipeline.serving.release import Arm, Outcomes, TaskOutcomes
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.tasks import Task

ARMS = (Arm.CHALLENGER, Arm.CHAMPION)

SECOND_US = 1_000_000
COUNTED = 3600 * SECOND_US
"""An outcome counts where it arrives so long after its impression was scored: the same for both arms."""

MOST_BYTES = 2**30
_GENERATION, _GENERATIONS = COUNTED // 2, 4
_CURRENT = b"current"
_MOST_EVENTS = 50
"""Outcome events that are kept of an impression."""


class ScoredImpression(NamedTuple):
    """A scored impression of a canary."""

    arm: Arm
    impression: str
    """Keyed hash of its id."""
    probabilities: Sequence[float]
    """[T] of the model's tasks."""
    scored: int
    """When, microseconds since 1970 UTC."""


@dataclass(frozen=True, slots=True)
class CountedTasks:
    """The tasks whose outcomes are events."""

    tasks: Sequence[Task]
    places: Sequence[int]
    """Of each of them among the tasks of the model."""
    max_early: int
    """Microseconds by which an event may come before its impression."""

    @classmethod
    def of(cls, spec: Spec) -> "CountedTasks":
        """Those of a spec; without tasks whose parent or start is none of them."""
        found: dict[str, int] = {}
        for place, task in enumerate(spec.tasks):
            needed = {task.parent, task.window_from} - {None, IMPRESSION}
            if task.label.event is not None and needed <= found.keys():
                found[task.name] = place
        tasks = [task for task in spec.tasks if task.name in found]
        return cls(tasks, list(found.values()), spec.source.max_early)

    @property
    def names(self) -> tuple[str, ...]:
        """What their outcomes are called in events."""
        return tuple(task.name for task in self.tasks)


def batch_of(since: int) -> int:
    """Number of the batch of an impression that was scored ``since`` microseconds after the trial began.

    Batches are short at first, so that a broken challenger is seen soon, and then few.
    """
    seconds = max(0, since) // SECOND_US
    return seconds // 20 if seconds < 3600 else 180 + (seconds - 3600) // 300


class OutcomeLedger:
    """The impressions and outcomes of one trial; several processes may use it at once.

    Args:
        root: Its folder; made when absent.
        counted: Tasks of the models.
        started: When the trial began, microseconds since 1970 UTC.
        most_bytes: Size of the file at most.

    Raises:
        lmdb.Error: the file is damaged.
        OSError: the folder cannot be made.
    """

    def __init__(self, root: Path, counted: CountedTasks, started: int, most_bytes: int = MOST_BYTES) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._counted, self._started = counted, started
        # Not flushed with each commit: what a failing machine loses is lost of both arms.
        self._environment = lmdb.open(
            str(root), map_size=most_bytes, max_dbs=_GENERATIONS + 2, max_readers=512, sync=False, metasync=False
        )
        names = [f"impressions {at}" for at in range(_GENERATIONS)]
        self._generations = [self._environment.open_db(name.encode()) for name in names]
        self._sums = self._environment.open_db(b"sums")
        self._state = self._environment.open_db(b"state")

    def close(self) -> None:
        """Closes the file."""
        self._environment.close()

    def add_scored(self, scored: Iterable[ScoredImpression], now: int) -> None:
        """Keeps scored impressions; one that is there already stays as it is.

        Args:
            scored: The impressions.
            now: Microseconds since 1970 UTC.

        Raises:
            FullError: there is no room; none of them is kept.
        """

        def add(transaction: Any, current: int) -> None:
            table = self._generations[current % _GENERATIONS]
            for one in scored:
                name = _digest(one.impression)
                if self._found(transaction, current, name) is None:
                    own = [one.probabilities[place] for place in self._counted.places]
                    transaction.put(name, orjson.dumps([ARMS.index(one.arm), one.scored, own, None, []]), db=table)

        self._changed(add, now)

    def add_events(self, events: Iterable[Event], now: int) -> None:
        """Counts impressions that were shown, and their outcomes; each once. Those of other impressions are passed over.

        Args:
            events: In any order.
            now: Microseconds since 1970 UTC.

        Raises:
            FullError: there is no room; none of them is counted.
        """

        def add(transaction: Any, current: int) -> None:
            for event in events:
                self._count(transaction, current, event)

        self._changed(add, now)

    def outcomes(self, now: int) -> list[TaskOutcomes]:
        """For each task, by batch that is over, the challenger's outcomes so far and the champion's."""
        last = batch_of(now - self._started)
        with self._environment.begin() as transaction:
            rows = [
                np.frombuffer(content).reshape(len(ARMS), -1, 2)
                for name, content in transaction.cursor(db=self._sums)
                if int.from_bytes(name, "big") < last
            ]
            return [
                TaskOutcomes(task=task, batches=[(_outcomes(row[0, at]), _outcomes(row[1, at])) for row in rows])
                for at, task in enumerate(self._counted.names)
            ]

    def _changed(self, change: Any, now: int) -> None:
        try:
            with self._environment.begin(write=True) as transaction:
                change(transaction, self._generation(transaction, now))
        except lmdb.MapFullError:
            raise FullError("there is no room for more impressions of the canary") from None

    def _generation(self, transaction: Any, now: int) -> int:
        """Number of the table that new impressions go to; empties those that are over."""
        content, own = transaction.get(_CURRENT, db=self._state), now // _GENERATION
        before = own if content is None else int(content)
        # A clock that is set back by a little must not empty anything; by much, nothing that is kept can be used.
        over = range(before + 1, own + 1) if own >= before - 1 else range(own, own + _GENERATIONS)
        for one in over[-_GENERATIONS:]:
            transaction.drop(self._generations[one % _GENERATIONS], delete=False)
        current = max(own, before) if own >= before - 1 else own
        transaction.put(_CURRENT, str(current).encode(), db=self._state)
        return current

    def _found(self, transaction: Any, current: int, name: bytes) -> tuple[Any, Any] | None:
        """The record of an impression and its table."""
        for back in range(_GENERATIONS - 1):
            table = self._generations[(current - back) % _GENERATIONS]
            content = transaction.get(name, db=table)
            if content is not None:
                return orjson.loads(content), table
        return None

    def _count(self, transaction: Any, current: int, event: Event) -> None:
        name = _digest(event.impression)
        found = self._found(transaction, current, name)
        if found is None:
            return
        (arm, scored, probabilities, shown, events), table = found
        if event.arrived - scored > COUNTED:
            return
        before = self._known(shown, events)
        is_new = event.kind == IMPRESSION and shown is None
        if is_new:
            shown = [event.ts, event.arrived]
        elif event.kind in self._counted.names and len(events) < _MOST_EVENTS:
            events.append([event.kind, event.ts, event.arrived])
        else:
            return
        transaction.put(name, orjson.dumps([arm, scored, probabilities, shown, events]), db=table)
        new = self._known(shown, events) - before
        if is_new or new:
            batch = batch_of(scored - self._started).to_bytes(4, "big")
            sums = self._summed(transaction, batch)
            for at, task in enumerate(self._counted.names):
                sums[arm, at] += task in new, probabilities[at] if is_new else 0.0
            transaction.put(batch, sums.tobytes(), db=self._sums)

    def _known(self, shown: Sequence[int] | None, events: Sequence[Sequence[Any]]) -> set[str]:
        """Tasks whose outcome counts."""
        if shown is None:
            return set()
        ts, arrived = shown
        own = [Arrived(*event) for event in events]
        return set(known_outcomes(self._counted.tasks, ts, arrived, own, self._counted.max_early))

    def _summed(self, transaction: Any, batch: bytes) -> NDArray[np.float64]:
        """[2, T, 2]: by arm and task, outcomes and what was predicted."""
        content, shape = transaction.get(batch, db=self._sums), (len(ARMS), len(self._counted.names), 2)
        return np.zeros(shape) if content is None else np.frombuffer(content).reshape(shape).copy()


def _outcomes(sums: NDArray[np.float64]) -> Outcomes:
    return Outcomes(observed=int(sums[0]), expected=float(sums[1]))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
