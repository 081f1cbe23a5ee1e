"""Ends a canary by the outcomes that are reported soon, from a thread of its own in each process of a service."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.errors import UserError
from ctr_pipeline.online.outcome_ledger import CountedTasks, OutcomeLedger, ScoredImpression
from ctr_pipeline.serving.history_lookup import Event
from ctr_pipeline.serving.http.pseudonym_features import hashed_values
from ctr_pipeline.serving.release import Arm, Trial, TrialMode, early_reasons
from ctr_pipeline.serving.request_values import BundleError

_log = logging.getLogger(__name__)

TURN_SECONDS = 0.5
MOST_SCORED = 200
"""Impressions of an arm that a process keeps of each second, those of one request apart; further ones take no part."""

MOST_WAITING = 1000
"""Requests of events that wait; further ones take no part."""

SETTLED_SECONDS = 2.0
"""Events wait so long: by then each process has written what it has scored."""


@dataclass(slots=True)
class _Scored:
    trial: Trial
    arm: Arm
    names: Sequence[str | int | None]
    probabilities: NDArray[np.floating[Any]]
    at: int


class OutcomeWatch:
    """The outcomes of the canary that runs, as one process sees them.

    Args:
        folder: Holds the ledgers, one for each trial.
        counted: The tasks of the models that answer now.
        pseudonym: The deployment's hash of an id.
        trial: The trial that runs; None without one.
        ended: Receives a trial that must end, and the reason.
        count: Receives the arm, ``kept`` or ``left_out``, and how many impressions.
        now: Microseconds since 1970 UTC.
        clock: Seconds that pass.
    """

    def __init__(
        self,
        folder: Path,
        counted: Callable[[], CountedTasks],
        *,
        pseudonym: Callable[[str], str],
        trial: Callable[[], Trial | None],
        ended: Callable[[Trial, str], None],
        count: Callable[[Arm, str, int], None],
        now: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._folder, self._counted, self.pseudonym, self.now = folder, counted, pseudonym, now
        self._trial, self._ended, self._count, self._clock = trial, ended, count, clock
        self._scored: deque[_Scored] = deque()
        self._events: deque[tuple[float, Sequence[Event]]] = deque()
        self._second, self._kept = 0, dict.fromkeys(Arm, 0)
        self._ledger: OutcomeLedger | None = None
        self._of, self._failed, self._judge_at = "", "", 0.0

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the tasks whose outcomes are counted."""
        return self._counted().names

    def scored(
        self,
        trial: Trial,
        arm: Arm,
        impression_ids: Sequence[str | int | None],
        probabilities: NDArray[np.floating[Any]],
    ) -> None:
        """As :meth:`~ctr_pipeline.serving.http.trial_outcomes.TrialOutcomes.scored`."""
        if trial.mode is not TrialMode.CANARY or trial.rules.early_ratio is None:
            return
        now, number = self.now(), len(impression_ids)
        if now // 1_000_000 != self._second:
            self._second, self._kept = now // 1_000_000, dict.fromkeys(Arm, 0)
        before = self._kept[arm]
        # Left out before anything is known of its outcomes: that changes no ratio.
        if before and before + number > MOST_SCORED:
            self._count(arm, "left_out", number)
            return
        self._kept[arm] = before + number
        self._scored.append(_Scored(trial, arm, impression_ids, probabilities, now))
        self._count(arm, "kept", number)

    def happened(self, events: Sequence[Event]) -> None:
        """As :meth:`~ctr_pipeline.serving.http.trial_outcomes.TrialOutcomes.happened`."""
        trial = self._trial()
        if trial is not None and trial.mode is TrialMode.CANARY and len(self._events) < MOST_WAITING:
            self._events.append((self._clock() + SETTLED_SECONDS, events))

    def start(self) -> threading.Thread:
        """Takes turns until the process ends."""

        def work() -> None:
            pause = threading.Event()
            while not pause.wait(TURN_SECONDS):
                self.turn()

        thread = threading.Thread(target=work, name="outcomes of the canary", daemon=True)
        thread.start()
        return thread

    def turn(self) -> None:
        """Writes what has come and looks whether the canary must end. Whatever fails, requests are answered."""
        trial = self._trial()
        if trial is None or trial.mode is not TrialMode.CANARY or trial.rules.early_ratio is None:
            self._forget()
            return
        try:
            ledger = self._opened(trial)
            self._write(trial, ledger)
            self._judge(trial, ledger)
        except (lmdb.Error, OSError, UserError, ValueError) as error:
            # Each cause is told once.
            if (text := f"{type(error).__name__}: {error}") != self._failed:
                _log.error(
                    "the canary is not judged by early outcomes: %s. Failures, latency and mature outcomes still end it. If there "
                    "is room on the disk, remove %s and start `ctr serve` again.",
                    text,
                    self._folder / trial.id,
                )
            self._failed = text

    def _forget(self) -> None:
        """Nothing is tried: what came last belongs to nothing."""
        self._scored.clear()
        self._events.clear()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger, self._of = None, ""

    def _opened(self, trial: Trial) -> OutcomeLedger:
        if self._ledger is not None and self._of != trial.id:
            self._ledger.close()
            self._ledger = None
        if self._ledger is None:
            started = int(datetime.fromisoformat(trial.started).timestamp() * 1e6)
            self._ledger, self._of = OutcomeLedger(self._folder / trial.id, self._counted(), started), trial.id
        return self._ledger

    def _write(self, trial: Trial, ledger: OutcomeLedger) -> None:
        scored = [self._scored.popleft() for _ in range(len(self._scored))]
        events: list[Event] = []
        while self._events and self._events[0][0] <= self._clock():
            events += self._events.popleft()[1]
        rows = [row for one in scored if one.trial.id == trial.id for row in self._rows(one)]
        if rows:
            ledger.add_scored(rows, self.now())
        if events:
            ledger.add_events(events, self.now())

    def _rows(self, one: _Scored) -> list[ScoredImpression]:
        try:
            names = hashed_values(list(one.names), frozenset(), self.pseudonym, "`impression_id`")
        except BundleError:
            # An id that ingestion would make none of.
            return []
        rows = zip(names, one.probabilities.tolist(), strict=True)
        return [ScoredImpression(one.arm, name, values, one.at) for name, values in rows if name is not None]

    def _judge(self, trial: Trial, ledger: OutcomeLedger) -> None:
        started = self._clock()
        if started < self._judge_at:
            return
        reasons = early_reasons(ledger.outcomes(self.now()), trial.rules)
        # At most a hundredth of the time.
        self._judge_at = started + max(2.0, 100 * (self._clock() - started))
        if reasons:
            self._ended(trial, " ".join(reasons))
