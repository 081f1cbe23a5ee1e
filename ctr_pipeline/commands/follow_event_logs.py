"""`ctr serve --events`: one process of a service follows a folder of event logs, in a thread beside the answers."""

import fcntl
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ctr_pipeline.commands.follow_registry import ServeError
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    from ctr_pipeline.online.event_log_reader import EventLogReader, Turn, Unreadable
    from ctr_pipeline.serving.history_lookup import EventSink
    from ctr_pipeline.serving.http import ServedModels, ServiceMetrics
    from ctr_pipeline.serving.http.request_history import RequestHistory
    from ctr_pipeline.serving.http.trial_outcomes import TrialOutcomes

_log = logging.getLogger(__name__)

IDLE_SECONDS = 0.25
"""Time between two looks at the folder when there is nothing to read, and between two tries to become the one that reads."""

BUSY_SECONDS = 0.002
"""Time between two turns when there is more to read: requests are answered meanwhile."""

FAILED_SECONDS = 5.0
"""Time until the next try when the folder or the store cannot be used."""


def refuse_unread_logs(folder: str, store: str, bundle: Path) -> None:
    """Refuses a folder of event logs that cannot be read, or that no feature is made of.

    Args:
        folder: The folder; empty for none.
        store: Folder of the snapshots; empty for none.
        bundle: Folder of the champion's bundle.

    Raises:
        ServeError: says what is missing.
    """
    from ctr_pipeline.online.event_store import is_made_of_events
    from ctr_pipeline.spec import load_spec

    if not folder:
        return
    if not Path(folder).is_dir():
        raise ServeError(
            f"--events {folder}: there is no such folder. Make it, or name the one that events are logged to."
        )
    if not store:
        raise ServeError(
            f"--events {folder}: there is no folder for what is read. Make a snapshot with `ctr snapshot`, or name a --store."
        )
    if not is_made_of_events(load_spec(bundle / "spec.yaml")):
        raise ServeError(
            f"--events {folder}: no feature of the model is made of events, so they would be read for nothing. Leave the option "
            "out, or set `exact: true` for a feature of `features.history`, where all tasks are of outcome events."
        )


@dataclass(slots=True)
class _Reading:
    """A folder and a store, and the reader where this process is the one that reads."""

    folder: Path
    sink: "EventSink"
    lock: TextIO
    _reader: "EventLogReader | None" = None

    def reader(self) -> "EventLogReader | None":
        """The reader; None while another process reads. It is made once that one has ended, and knows how far it came."""
        from ctr_pipeline.online.event_log_reader import EventLogReader

        if self._reader is None:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            self._reader = EventLogReader(self.folder, self.sink)
        return self._reader

    def close(self) -> None:
        """Lets another process read."""
        if self._reader is not None:
            self._reader.close()
        self.lock.close()


@dataclass(slots=True)
class FollowedLogs:
    """Reads a folder of logs into the stores of the models of this process, unless another process does.

    Args:
        models: The models.
        folder: The folder.
        metrics: Where events are counted.
        outcomes: Receives the events, for a canary; None where nothing does.
    """

    models: "ServedModels"
    folder: Path
    metrics: "ServiceMetrics"
    outcomes: "TrialOutcomes | None" = None
    _readings: dict[str, _Reading] = field(init=False, default_factory=dict)
    """By the identity of the store."""
    _told: set[str] = field(init=False, default_factory=set)
    """Kinds of problems that the log has."""
    _stopping: threading.Event = field(init=False, default_factory=threading.Event)
    _thread: threading.Thread | None = field(init=False, default=None)

    def start(self) -> None:
        """Begins, in a thread that ends with the process."""
        self._thread = threading.Thread(target=self._follow, name="event logs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends after the turn that is under way; another process then takes over."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        for reading in self._readings.values():
            reading.close()
        self._readings.clear()

    def step(self) -> float:
        """One turn for each store; the seconds until the next one."""
        histories = self.models.current.event_histories
        identities = {history.events.identity for history in histories if history.events is not None}
        for identity in self._readings.keys() - identities:
            self._readings.pop(identity).close()
        pause = IDLE_SECONDS
        for at, history in enumerate(histories):
            reader = self._reading(history).reader()
            if reader is None:
                continue
            turn = reader.turn(history)
            for found in turn.unreadable:
                self._tell(found)
            if at == 0:
                self._count(turn)
                if self.outcomes is not None and turn.events:
                    self.outcomes.happened(turn.events)
            if turn.read:
                pause = BUSY_SECONDS
        return pause

    def _follow(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                pause = self.step()
            except (OSError, UserError) as error:
                # A folder that is absent for a while, or a store without room: what is not stored is read again.
                pause = FAILED_SECONDS
                kind = type(error).__name__
                if kind not in self._told:
                    self._told.add(kind)
                    _log.error("%s: events cannot be read for now: %s", self.folder, error)
            except Exception:
                pause = FAILED_SECONDS
                _log.exception("%s: events cannot be read for now", self.folder)

    def _reading(self, history: "RequestHistory") -> _Reading:
        from ctr_pipeline.online.event_log_reader import folder_name

        sink = history.events
        assert sink is not None, "chosen so"
        found = self._readings.get(sink.identity)
        if found is None:
            # Beside the store: services that share it share the lock.
            lock = (Path(sink.identity) / f"reader-{folder_name(self.folder)}.lock").open("a", encoding="ascii")
            found = self._readings[sink.identity] = _Reading(self.folder, sink, lock)
        return found

    def _count(self, turn: "Turn") -> None:
        self.metrics.events(turn.stored)
        self.metrics.log_read([found.reason for found in turn.unreadable], turn.behind, turn.newest)

    def _tell(self, found: "Unreadable") -> None:
        if found.reason not in self._told:
            self._told.add(found.reason)
            _log.warning(
                "%s: byte %d: %s. It is passed over; further ones of this kind (%s) are counted in /metrics alone.",
                self.folder / found.file, found.offset, found.message, found.reason,
            )  # fmt: skip
