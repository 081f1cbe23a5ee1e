"""Events from a folder of logs that others append to: each line as an event of ``POST /events``.

How far each file is read is stored in one transaction with the events that it covers, so a reader that is killed loses none
and stores none twice. What is read again all the same, as of a file that was copied, is recognised by the events' ids.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from ctr_pipeline.online.log_folder import CHECKED, LogFile, LogFolder
from ctr_pipeline.online.log_lines import MOST_LINE, lines_of
from ctr_pipeline.serving.history_lookup import Event, EventSink, Stored
from ctr_pipeline.serving.http.events import EVENT_FIELDS, parsed_event
from ctr_pipeline.serving.http.request_history import RequestHistory
from ctr_pipeline.serving.http.request_json import RequestError, parsed_object

MOST_BYTES = 2 * MOST_LINE
"""Bytes that a turn reads."""

MOST_LINES = 100
"""Lines that a turn reads: it computes in a process that answers requests."""

_MOST_FIELDS, _MOST_VALUES = 1000, 10_000

_NOTHING = Stored(0, 0)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What was passed over. Nothing of its content is in it."""

    file: str
    """Name of the file."""
    offset: int
    """Byte at which it begins."""
    reason: str
    """A field of an event, or `field` (another one), `json`, `limit`, `long`, `removed`, `file`."""
    message: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn did, and what is left."""

    read: int = 0
    """Bytes, of what was passed over too."""
    stored: Stored = _NOTHING
    events: Sequence[Event] = ()
    """Those that were stored now or before."""
    unreadable: tuple[Unreadable, ...] = ()
    behind: int = 0
    """Bytes of the files that wait to be read, but for a line at the end of a file that is not whole yet."""
    newest: int = 0
    """Latest time of an event that was read, of all turns; microseconds since 1970 UTC, 0 for none."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Up to where a file is read."""

    offset: int = 0
    within_long: bool = False
    check: str = ""
    """Keyed hash of the bytes before ``offset``."""
    newest: int = 0
    """Latest time of an event of the file."""

    def stored(self) -> bytes:
        return orjson.dumps([self.offset, self.within_long, self.check, self.newest])


class EventLogReader:
    """Reads one folder into one store. Only one may be there at a time, as it holds in memory how far each file is read.

    Args:
        folder: The folder. Its files have an event in each line, as JSON; further folders in it are not read.
        sink: The store.
    """

    def __init__(self, folder: Path, sink: EventSink) -> None:
        self._folder, self._sink = LogFolder(folder), sink
        self._prefix = folder_name(folder) + "/"
        stored = sink.places(self._prefix).items()
        self._places = {name.removeprefix(self._prefix): _Place(*orjson.loads(place)) for name, place in stored}
        self._ended: dict[str, LogFile] = {}
        """Files as they were when there was no whole line left to read."""

    def turn(self, history: RequestHistory) -> Turn:
        """Reads the next lines of one file, and stores their events.

        Args:
            history: How keys are read.

        Raises:
            OSError: the folder cannot be read.
            FullError: there is no room for events; they are read again by the next turn.
        """
        found = self._folder.files()
        finished = [file for file in found if file.removed and self._ended.get(file.id) == file]
        unreadable = [lost for file in finished for lost in self._finish(file)]
        files = [file for file in found if file not in finished]
        self._forget_absent({file.id for file in files}, history)
        turn = Turn()
        for file in files:
            if self._ended.get(file.id) == file:
                continue
            try:
                turn = self._read(file, history)
            except OSError as error:
                self._ended[file.id] = file
                unreadable.append(Unreadable(file.name, 0, "file", f"it cannot be read ({error.strerror})"))
            if turn.read:
                break
        return replace(
            turn,
            unreadable=(*unreadable, *turn.unreadable),
            behind=sum(self._left(file) for file in files),
            newest=max((place.newest for place in self._places.values()), default=0),
        )

    def close(self) -> None:
        """Closes the files."""
        self._folder.close_all()

    def _left(self, file: LogFile) -> int:
        place = self._places.get(file.id, _Place())
        return 0 if self._ended.get(file.id) == file else max(0, file.size - place.offset)

    def _read(self, file: LogFile, history: RequestHistory) -> Turn:
        place = self._places.get(file.id, _Place())
        back = min(place.offset, CHECKED)
        data = self._folder.read(file, place.offset - back, back + MOST_BYTES)
        if data is None:
            return Turn()
        pseudonym = _hash_of(history)
        if len(data) < back or (back and pseudonym(data[:back]) != place.check):
            # It was truncated, or written anew, or another file has got its inode.
            place, back = _Place(), 0
            data = self._folder.read(file, 0, MOST_BYTES) or b""
        found = lines_of(data[back:], place.offset, place.within_long, MOST_LINES)
        read = found.offset - place.offset
        if not read:
            self._ended[file.id] = file
            return Turn()
        now = history.now()
        events, unreadable = self._events(file.name, found.whole, history, now)
        unreadable += [Unreadable(file.name, at, "long", f"a line of more than {MOST_LINE} bytes") for at in found.long]
        before = data[: back + read][-CHECKED:]
        newest = max([place.newest, *(event.ts for event in events)])
        reached = _Place(found.offset, found.within_long, pseudonym(before), newest)
        [stored] = self._sink.append_all([events], now, {self._prefix + file.id: reached.stored()})
        self._places[file.id] = reached
        return Turn(read, stored, events, tuple(unreadable))

    def _events(
        self, name: str, lines: Sequence[tuple[int, bytes]], history: RequestHistory, now: int
    ) -> tuple[list[Event], list[Unreadable]]:
        events, unreadable = list[Event](), list[Unreadable]()
        for at, line in lines:
            try:
                events.append(_event(line, history, self._sink, now))
            except RequestError as error:
                reason = error.field if error.kind == "field" and error.field in EVENT_FIELDS else error.kind
                unreadable.append(Unreadable(name, at, reason, error.message))
        return events, unreadable

    def _finish(self, file: LogFile) -> list[Unreadable]:
        """Closes a file that was removed and is read."""
        self._folder.close(file.id)
        left = file.size - self._places.get(file.id, _Place()).offset
        if left <= 0:
            return []
        message = f"it was removed with {left} bytes at its end that are no whole line"
        return [Unreadable(file.name, file.size - left, "removed", message)]

    def _forget_absent(self, there: set[str], history: RequestHistory) -> None:
        """Forgets the places of files that are gone."""
        gone = self._places.keys() - there
        if gone:
            self._sink.append_all([], history.now(), {self._prefix + id_: None for id_ in gone})
        for id_ in gone:
            del self._places[id_]
        self._ended = {id_: file for id_, file in self._ended.items() if id_ in there}


def folder_name(folder: Path) -> str:
    """What the store calls a folder."""
    return hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()


def _event(line: bytes, history: RequestHistory, sink: EventSink, now: int) -> Event:
    content = parsed_object(line, EVENT_FIELDS, _MOST_FIELDS, _MOST_VALUES)
    if not content.keys() <= set(EVENT_FIELDS):
        # A name that is unknown may hold an id, and goes to a log.
        raise RequestError(f"a field that is none of {', '.join(EVENT_FIELDS)}", kind="field")
    return parsed_event(content, "the event", history, sink, now)


def _hash_of(history: RequestHistory) -> Callable[[bytes], str]:
    """A keyed hash: without the key, an id could be guessed from the digest of a line."""
    pseudonym = history.pseudonym
    assert pseudonym is not None, "ids of impressions are always hashed"
    return lambda data: pseudonym(data.hex())
