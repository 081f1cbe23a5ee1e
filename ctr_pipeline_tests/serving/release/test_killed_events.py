"""A service that is killed while it takes events and scores: what it acknowledged is there once, and nothing half written."""

import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ctr_pipeline.commands.serve_store import events_folder
from ctr_pipeline.online.event_store import MOST_BYTES, EventStore, exact_features
from ctr_pipeline.online.event_sums import SPANS
from ctr_pipeline.online.log_records import read_segment, segments
from ctr_pipeline.online.shared_environment import opened_environment
from ctr_pipeline.sources import Pseudonymiser
from ctr_pipeline_tests.serving.release.registered import KEY, Load, Registered, Service, on_this_machine
from ctr_pipeline_tests.serving.shop_with_events import clicked, shown

TIMES = 20

USERS = 7


@dataclass
class Sender:
    """Sends events, a few at a time, over a connection that it keeps; nothing is sent twice."""

    name: str
    port: int
    sure: list[dict[str, Any]] = field(default_factory=list)
    """Events that were acknowledged."""
    unsure: list[dict[str, Any]] = field(default_factory=list)
    """Events of requests that were not answered."""
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Sender":
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _send(self) -> None:
        connection, pick, number = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10), random.Random(1), 0
        while not self._stop.wait(0.002):
            now, events = time.time_ns() // 1000, []
            for _ in range(pick.randint(1, 4)):
                number += 1
                name = f"{self.name}-{number}"
                events += [shown(name, now, f"u{number % USERS}"), clicked(name, now)]
            try:
                connection.request(
                    "POST", "/events", json.dumps({"events": events}), {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                content = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                self.unsure += events
                connection.close()
                time.sleep(0.05)
                continue
            if content != {"accepted": len(events), "repeated": 0, "too_old": 0}:
                self.wrong.append(f"{answer.status} {content}")
            self.sure += events


def shown_by_user(events: list[dict[str, Any]]) -> Counter[str]:
    return Counter(event["keys"]["user"] for event in events if event["event"] == "impression")


def seen(store: EventStore) -> Counter[str]:
    [feature] = exact_features(store.spec)
    users, hashes = [f"u{n}" for n in range(USERS)], Pseudonymiser(KEY.encode()).of_text
    # A minute later, so that sums of whole hours and single moments are both in it.
    now = time.time_ns() // 1000 + 60_000_000
    values = store.values(feature, [hashes(user) for user in users], np.full(USERS, now))
    return Counter({user: int(value) for user, value in zip(users, values, strict=True)})


def refuse_half_records(store: EventStore) -> None:
    """All tables of the store tell of the same events."""
    file = opened_environment(Path(store.identity), MOST_BYTES, 16)
    tables = {name: dict(file.begin(db=file.open_db(name.encode(), create=False)).cursor()) for name in (
        "seen", "impressions", "times", "moments", *SPANS)}  # fmt: skip
    records = [json.loads(content) for content in tables["impressions"].values()]
    assert sum((record["shown"] is not None) + len(record["events"]) for record in records) == len(tables["seen"])
    assert all(record["shown"] is not None and len(record["events"]) == 1 for record in records)
    assert len(tables["moments"]) == len(records)
    for span in SPANS:
        assert sum(int.from_bytes(content[:8], "big") for content in tables[span].values()) == len(records)
    assert len(tables["times"]) == sum(len(table) for name, table in tables.items() if name != "times")


def family(service: Service) -> list[psutil.Process]:
    process = psutil.Process(service.process.pid)
    return [process, *process.children()]


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_no_acknowledged_event_is_lost_and_nothing_is_half_written(
    registered_with_events: Registered, workers: int
) -> None:
    """Killed are the whole service, and in turn one of its processes."""
    registered, took, senders, answered = registered_with_events, [], list[Sender](), 0
    with registered.served("--workers", str(workers)) as service:
        port = service.port
        service.process.kill()
        service.process.wait()
    for number in range(TIMES):
        started = time.monotonic()
        with registered.served("--workers", str(workers), port=port) as service:
            took.append((service.processor_seconds(), time.monotonic() - started, on_this_machine(3)))
            with Sender(f"a{number}", port) as one, Sender(f"b{number}", port) as other, Load(port, 1) as load:
                senders += [one, other]
                time.sleep(0.5 + random.random() / 2)
                if number % 2:
                    os.kill(random.choice(service.workers()), signal.SIGKILL)
                    acknowledged = len(one.sure) + len(other.sure)
                    deadline = time.monotonic() + on_this_machine(20)
                    # Another process answers, or a new one does.
                    while len(one.sure) + len(other.sure) < acknowledged + 20:
                        assert time.monotonic() < deadline
                        time.sleep(0.02)
                processes = family(service)
                service.process.kill()
                service.process.wait()
            answered += load.answers.total()
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert alive == [], "a process outlives the service"
    assert [wrong for sender in senders for wrong in sender.wrong] == []
    sure = [event for sender in senders for event in sender.sure]
    unsure = [event for sender in senders for event in sender.unsure]
    assert len(sure) > 20 * TIMES
    spec = registered.releases.deployment.spec
    store = EventStore(events_folder(registered.root / "online", spec, None), spec)
    refuse_half_records(store)
    least, most = shown_by_user(sure), shown_by_user(sure + unsure)
    found = seen(store)
    assert all(least[user] <= found[user] <= most[user] for user in most), (least, found, most)
    with registered.served("--workers", "1", port=port) as service:
        for at in range(0, len(sure), 500):
            part = sure[at : at + 500]
            assert service.post("/events", {"events": part}) == {"accepted": 0, "repeated": len(part), "too_old": 0}
        for at in range(0, len(unsure), 500):
            service.post("/events", {"events": unsure[at : at + 500]})
    assert seen(store) == most
    refuse_half_records(store)
    refuse_half_logged(registered.root, answered)
    shown = ", ".join(f"{seconds:.1f}" for _, seconds, _ in took)
    print(f"{workers} processes: {len(sure)} events acknowledged; seconds until it answered again: {shown}")
    assert max(processor for processor, _, _ in took) < 3, took
    assert all(seconds < allowed for _, seconds, allowed in took), took


def refuse_half_logged(root: Path, answered: int) -> None:
    """All that is read of the spool is whole; behind it is less than one record, of the moment at which a process was killed."""
    contents = [read_segment(segment.path) for segment in segments(root / "serving_log" / "spool")]
    requests = [request for content in contents for request in content.requests]
    assert 0 < len(requests) <= answered + 100
    assert len({request.request_id for request in requests}) == len(requests)
    assert all(request.probabilities.shape == (2, 1) for request in requests)
    assert all(content.unread_bytes < 4096 for content in contents)
