"""`ctr serve --events`: one of its processes reads the logs, and another takes over when it is killed."""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ctr_pipeline.commands.follow_event_logs import refuse_unread_logs
from ctr_pipeline.commands.follow_registry import ServeError
from ctr_pipeline.commands.serve_store import events_folder
from ctr_pipeline.online.event_store import EventStore, exact_features
from ctr_pipeline.serving import Bundle
from ctr_pipeline.sources import Pseudonymiser
from ctr_pipeline_tests.serving.release.registered import KEY, Load, Registered
from ctr_pipeline_tests.serving.shop_with_events import clicked, shown

CANARY = "canary-user-4711"
EVENTS = 3000


def store_of(registered: Registered) -> EventStore:
    spec = registered.releases.deployment.spec
    return EventStore(events_folder(registered.root / "online", spec, None), spec)


def reading(store: EventStore) -> int | None:
    """The process that has the lock."""
    [lock] = Path(store.identity).glob("reader-*.lock")
    found = re.search(rf"FLOCK +ADVISORY +WRITE (\d+) \S+:{lock.stat().st_ino} ", Path("/proc/locks").read_text())
    return int(found[1]) if found else None


def seen(store: EventStore, user: str) -> float:
    [feature] = exact_features(store.spec)
    [found] = store.values(feature, [Pseudonymiser(KEY.encode()).of_text(user)], np.array([time.time_ns() // 1000]))
    return float(found)


def test_events_of_the_logs_are_stored_once_though_the_reading_process_is_killed(
    registered_with_events: Registered, tmp_path: Path
) -> None:
    registered, logs = registered_with_events, tmp_path / "logs"
    logs.mkdir()
    now, live = time.time_ns() // 1000, logs / "events.jsonl"
    events = [shown(f"i{n}", now + n, CANARY) for n in range(EVENTS)]
    lines = [json.dumps(event).encode() + b"\n" for event in (*events, clicked("i0", now + EVENTS))]
    with registered.served("--workers", "2", "--events", str(logs)) as service, Load(service.port, 1) as load:
        store = store_of(registered)
        with live.open("wb", buffering=0) as stream:
            stream.write(b"".join(lines[:1000]))
            awaited(lambda: seen(store, CANARY) > 0)
            killed = reading(store)
            assert killed in service.workers()
            os.kill(killed, signal.SIGKILL)
            stream.write(b"".join(lines[1000:2000]) + lines[2000][:20])
            live.rename(logs / "events.jsonl.1")
            stream.write(lines[2000][20:])
        with live.open("wb", buffering=0) as stream:
            stream.write(CANARY.encode() + b"\n" + b"".join(lines[2001:]))
            awaited(lambda: seen(store, CANARY) == EVENTS)
        assert reading(store) not in (killed, None)
        awaited(lambda: service.metric("ctr_serve_event_log_behind_bytes") == 0)
        text = service.get("/metrics")
        assert service.metric('ctr_serve_event_log_unreadable_total{reason="json"}') == 1
        assert service.metric("ctr_serve_event_log_newest_seconds") == (now + EVENTS) / 1e6
        # A process that is killed may have stored its last lines, and not counted them.
        assert EVENTS - 200 < service.metric("ctr_serve_events_total") <= EVENTS + 1
        # The service has what it answered, and knows what was read as what was sent.
        assert service.post("/events", {"events": events[:3]}) == {"accepted": 0, "repeated": 3, "too_old": 0}
        # Only what the killed process had taken up is lost.
        assert len(load.failures) <= load.senders
        log = service.log.read_text()
    assert re.search(r"events.jsonl: byte 0: the body is no JSON", log)
    assert log.count("is passed over") == 1
    assert CANARY not in log
    assert CANARY not in text


def awaited(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_logs_that_would_be_read_for_nothing_are_refused(
    bundle: Bundle, with_events_bundle: Bundle, tmp_path: Path
) -> None:
    store, logs = str(tmp_path), str(tmp_path)
    refuse_unread_logs("", "", bundle.directory)
    refuse_unread_logs(logs, store, with_events_bundle.directory)
    with pytest.raises(ServeError, match="no such folder"):
        refuse_unread_logs(str(tmp_path / "none"), store, with_events_bundle.directory)
    with pytest.raises(ServeError, match="--store"):
        refuse_unread_logs(logs, "", with_events_bundle.directory)
    with pytest.raises(ServeError, match="`exact: true`"):
        refuse_unread_logs(logs, store, bundle.directory)
