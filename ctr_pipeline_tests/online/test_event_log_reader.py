"""A folder of event logs: whatever happens to its files and to the reader, each event is stored once."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctr_pipeline.online import event_log_reader, log_folder
from ctr_pipeline.online.event_log_reader import EventLogReader, Turn
from ctr_pipeline.online.event_store import EventStore, exact_features
from ctr_pipeline.online.feature_store import FeatureStore
from ctr_pipeline.online.log_lines import MOST_LINE
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event, EventSink, FullError, Stored
from ctr_pipeline.serving.http.request_history import USER, KeySource, RequestHistory
from ctr_pipeline.sources import Pseudonymiser
from ctr_pipeline_tests.features.pasts import FIRST, SPEC, start

NOW = start(FIRST) + 50_000_000_000
KEY = Pseudonymiser(b"a key of the tests only")
CANARY = "canary-user-4711"
SEEN = next(f for f in exact_features(SPEC) if f.name == "seen_before")


class KilledError(Exception):
    """The reader's process ends here."""


@dataclass
class Kept:
    """A store in memory. What a transaction holds is there as a whole or not at all."""

    events: list[Event] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    kill: str = ""
    identity = "kept"
    keys = ("ad", "user")
    kinds = ("click", "buy")

    def append_all(
        self, batches: Sequence[Sequence[Event]], _now: int, places: Mapping[str, bytes | None] | None = None
    ) -> list[Stored]:
        if self.kill == "before":
            raise KilledError
        for name, place in (places or {}).items():
            self.stored.pop(name, None)
            if place is not None:
                self.stored[name] = place
        self.events += [event for events in batches for event in events]
        if self.kill == "after":
            raise KilledError
        return [Stored(len(events), 0) for events in batches]

    def places(self, prefix: str) -> Mapping[str, bytes]:
        return {name: place for name, place in self.stored.items() if name.startswith(prefix)}


def history_of(sink: EventSink) -> RequestHistory:
    sources = {
        "user": KeySource((USER,), frozenset(("none",)), hashed=True),
        "ad": KeySource(("ad",), frozenset(), hashed=False),
    }
    return RequestHistory(FeatureStore(Path("none"), SPEC), sources, KEY.of_text, lambda: NOW, False, sink)


def line(number: int, user: str = "u1") -> bytes:
    keys = {"user": user, "ad": "a"}
    content = {"event": IMPRESSION, "impression_id": f"i{number}", "ts": NOW - 1000 + number, "keys": keys}
    return json.dumps(content).encode() + b"\n"


def read_all(reader: EventLogReader, sink: EventSink) -> list[Turn]:
    turns = [reader.turn(history_of(sink))]
    while turns[-1].read:
        turns.append(reader.turn(history_of(sink)))
    return turns


STEPS = st.one_of(
    st.integers(1, 400), st.sampled_from(["turn", "before", "after", "rename", "copy", "remove", "other", "restart"])
)


@example(steps=[150, "turn", "copy", 20, "turn", 400, "turn"])
@example(steps=[300, "turn", "rename", 300, "turn", "remove", 300])
@given(steps=st.lists(STEPS, max_size=40))
def test_any_order_of_writing_rotating_and_killing_stores_what_was_written(steps: list[int | str]) -> None:
    """Numbers append as many bytes; half a line of it is written to its end before the file is rotated."""
    rest, files = b"".join(line(n) if n % 7 else b"no event\n" for n in range(120)), 0
    written, sink, copied = b"", Kept(), False
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_log_reader, "MOST_LINES", 3)
        live = Path(folder) / "events.jsonl"
        reader = EventLogReader(Path(folder), sink)

        def append(size: int) -> None:
            nonlocal rest, written
            with live.open("ab") as stream:
                stream.write(rest[:size])
            written, rest = written + rest[:size], rest[size:]

        for step in steps:
            if isinstance(step, int):
                append(step)
                continue
            if step in ("rename", "copy", "other", "remove"):
                append(rest.find(b"\n") + 1 if written[-1:] not in (b"", b"\n") else 0)
            files += 1
            aside = Path(folder) / f"events.jsonl.{files}"
            if step == "rename" and live.exists():
                live.rename(aside)
            elif step == "copy" and live.exists():
                copied = copied or live.stat().st_size > 0
                shutil.copy(live, aside)
                os.truncate(live, 0)
            elif step == "other":
                live = Path(folder) / f"events-{files}.jsonl"
            elif step == "remove" and live.exists():
                read_all(reader, sink)
                live.unlink()
            elif step in ("turn", "before", "after"):
                sink.kill = step
                try:
                    reader.turn(history_of(sink))
                except KilledError:
                    reader.close()
                    reader = EventLogReader(Path(folder), sink)
                sink.kill = ""
            elif step == "restart":
                reader.close()
                reader = EventLogReader(Path(folder), sink)
        turn = read_all(reader, sink)[-1]
        reader.close()
    whole = written[: written.rfind(b"\n") + 1]
    expected = sorted(NOW - 1000 + n for n in range(120) if line(n) in whole)
    found = sorted(event.ts for event in sink.events)
    assert turn.behind == 0
    # What was copied is read twice, and recognised by the events' ids.
    assert (sorted(set(found)) if copied else found) == expected


def test_a_rotated_file_is_read_to_its_end_though_it_is_packed_or_removed(tmp_path: Path) -> None:
    sink, live = Kept(), tmp_path / "events.log"
    live.write_bytes(line(1))
    reader = EventLogReader(tmp_path, sink)
    read_all(reader, sink)
    with live.open("ab") as stream:
        stream.write(line(2) + line(3)[:20])
        stream.flush()
        live.rename(tmp_path / "events.log.1")
        live.write_bytes(line(4))
        (tmp_path / "events.log.1").unlink()
        (tmp_path / "events.log.1.gz").write_bytes(b"packed\n")
        first = read_all(reader, sink)
    assert sorted(event.ts - NOW + 1000 for event in sink.events) == [1, 2, 4]
    [lost] = [found for turn in first for found in turn.unreadable]
    assert (lost.file, lost.offset, lost.reason) == ("events.log", len(line(1) + line(2)), "removed")
    # The place of the new file alone is kept.
    assert len(sink.stored) == 1
    reader.close()


def test_a_file_that_is_written_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    sink, live = Kept(), tmp_path / "events.jsonl"
    live.write_bytes(line(1) + line(2))
    reader = EventLogReader(tmp_path, sink)
    read_all(reader, sink)
    # Of the same inode, and longer than what was read of it.
    live.write_bytes(line(3) + line(4) + line(5))
    read_all(reader, sink)
    live.write_bytes(line(6))
    read_all(reader, sink)
    reader.close()
    assert [event.ts - NOW + 1000 for event in sink.events] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1]", "json"),
        (b"\xff\xfe", "json"),
        (b'{"event": NaN}', "json"),
        (b'{"event": "click", "event": "click"}', "json"),
        (json.dumps({CANARY: 1}).encode(), "field"),
        (json.dumps({"event": CANARY}).encode(), "event"),
        (json.dumps({"event": "click", "impression_id": [CANARY], "ts": NOW}).encode(), "impression_id"),
        (json.dumps({"event": "click", "impression_id": CANARY, "ts": NOW + 10**9}).encode(), "ts"),
        (line(0).replace(b'"user"', CANARY.encode().join([b'"', b'"'])).strip(), "keys"),
        (b'{"event": "' + CANARY.encode() + b"x" * MOST_LINE + b'"}', "long"),
        (b'{"keys": {' + b",".join(b'"%d": 1' % n for n in range(1001)) + b"}}", "limit"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_without_its_content(tmp_path: Path, content: bytes, reason: str) -> None:
    sink = Kept()
    (tmp_path / "events.jsonl").write_bytes(line(1) + content + b"\n" + line(2))
    reader = EventLogReader(tmp_path, sink)
    turns = read_all(reader, sink)
    reader.close()
    [found] = [one for turn in turns for one in turn.unreadable]
    assert (found.file, found.offset, found.reason) == ("events.jsonl", len(line(1)), reason)
    assert CANARY not in found.message
    assert [event.ts - NOW + 1000 for event in sink.events] == [1, 2]
    assert turns[-1].newest == NOW - 998


def test_what_waits_is_told_and_a_full_store_takes_it_later(tmp_path: Path, monkeypatch: Any) -> None:
    class Full(Kept):
        def append_all(self, *_: Any) -> list[Stored]:
            raise FullError("full")

    monkeypatch.setattr(event_log_reader, "MOST_LINES", 2)
    content = b"".join(line(n) for n in range(5))
    (tmp_path / "events.jsonl").write_bytes(content + line(5)[:30])
    sink = Full()
    reader = EventLogReader(tmp_path, sink)
    for _ in range(2):
        with pytest.raises(FullError):
            reader.turn(history_of(sink))
    reader.close()
    sink = Kept()
    reader = EventLogReader(tmp_path, sink)
    turns = read_all(reader, sink)
    # The half line is no lag: nothing can be done about it.
    assert [turn.behind for turn in turns] == [len(content + line(5)[:30]) - len(line(0)) * n for n in (2, 4, 5)] + [0]
    assert [turn.stored.accepted for turn in turns] == [2, 2, 1, 0]
    reader.close()


def test_a_folder_of_many_files_keeps_few_open_and_passes_over_what_is_no_log(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(log_folder, "MOST_OPEN", 3)
    sink, there = Kept(), len(os.listdir("/proc/self/fd"))
    for number in range(20):
        (tmp_path / f"{number}.jsonl").write_bytes(line(number))
    (tmp_path / ".hidden").write_bytes(b"x\n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    reader = EventLogReader(tmp_path, sink)
    turns = read_all(reader, sink)
    assert (len(sink.events), [found for turn in turns for found in turn.unreadable]) == (20, [])
    assert len(os.listdir("/proc/self/fd")) <= there + 3
    reader.close()
    assert len(os.listdir("/proc/self/fd")) <= there


def test_the_store_keeps_places_with_events_and_no_id_of_a_line(tmp_path: Path) -> None:
    logs, root = tmp_path / "logs", tmp_path / "store"
    logs.mkdir()
    (logs / "events.jsonl").write_bytes(line(1, CANARY) + line(2, CANARY))
    store = EventStore(root, SPEC)
    reader = EventLogReader(logs, store)
    assert [turn.stored for turn in read_all(reader, store)] == [Stored(2, 0), Stored(0, 0)]
    reader.close()
    again = EventLogReader(logs, store)
    assert [turn.read for turn in read_all(again, store)] == [0]
    again.close()
    assert store.values(SEEN, [KEY.of_text(CANARY)], np.array([NOW + 1])) == [2.0]
    assert len(store.places("")) == 1
    content = (root / "data.mdb").read_bytes()
    assert all(text.encode() not in content for text in (CANARY, KEY.of_text(CANARY)))
    (logs / "events.jsonl").unlink()
    last = EventLogReader(logs, store)
    last.turn(history_of(store))
    last.close()
    assert store.places("") == {}
