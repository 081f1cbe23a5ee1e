"""Events over HTTP: acknowledged once stored, their ids hashed, bad ones refused without their values."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from ctr_pipeline.online.event_store import EventStore, exact_features
from ctr_pipeline.online.feature_store import FeatureStore
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event, FullError, Stored
from ctr_pipeline.serving.http import ServedModel
from ctr_pipeline.serving.http.events import MOST_EVENTS, EventWriter
from ctr_pipeline.serving.http.request_history import USER, KeySource, RequestHistory
from ctr_pipeline.serving.http.request_json import RequestError
from ctr_pipeline.sources import Pseudonymiser
from ctr_pipeline_tests.features.pasts import FIRST, SPEC, start

NOW = start(FIRST) + 50_000_000_000
KEY = Pseudonymiser(b"a key of the tests only")
CANARY = "canary-user-4711"
SEEN, CLICKED = (next(f for f in exact_features(SPEC) if f.name == name) for name in ("seen_before", "clicked_before"))


@pytest.fixture
def events(tmp_path: Path) -> EventStore:
    return EventStore(tmp_path, SPEC)


def history_of(events: EventStore, root: Path) -> RequestHistory:
    sources = {
        "user": KeySource((USER,), frozenset(("none",)), hashed=True),
        "ad": KeySource(("ad",), frozenset(), hashed=False),
    }
    return RequestHistory(FeatureStore(root, SPEC, events=events), sources, KEY.of_text, lambda: NOW, False, events)


@pytest.fixture
def client(model: ServedModel, events: EventStore, client_of: Callable[..., TestClient], tmp_path: Path) -> TestClient:
    return client_of(replace(model, history=history_of(events, tmp_path / "none")))


def impression(name: Any = "i1", ts: Any = NOW - 9, **keys: Any) -> dict[str, Any]:
    return {"event": IMPRESSION, "impression_id": name, "ts": ts, "keys": keys}


def test_events_are_counted_from_the_next_request_on(client: TestClient, events: EventStore) -> None:
    click = {"event": "click", "impression_id": "i1", "ts": NOW - 5}
    body = {"events": [impression(user="u1", ad=" 7.0"), click, impression("i2", user="none", ad=7)]}
    assert client.post("/events", json=body).json() == {"accepted": 3, "repeated": 0, "too_old": 0}
    later, user = np.array([NOW + 1]), KEY.of_text("u1")
    assert events.values(SEEN, [user], later) == [1.0]
    assert events.values(CLICKED, ["7"], later) == [1.0]
    assert client.post("/events", json=body).json() == {"accepted": 0, "repeated": 3, "too_old": 0}
    assert events.values(SEEN, [user], later) == [1.0]
    old = {"events": [impression("i3", 5, user="u1")]}
    assert client.post("/events", json=old).json()["too_old"] == 1
    text = client.get("/metrics").text
    assert 'ctr_serve_events_total{outcome="accepted"} 3.0' in text
    assert 'ctr_serve_events_total{outcome="repeated"} 3.0' in text


def test_the_store_looks_up_what_events_made(client: TestClient, events: EventStore, tmp_path: Path) -> None:
    client.post("/events", json={"events": [impression(user="u1", ad="a")]})
    store = FeatureStore(tmp_path / "none", SPEC, events=events)
    user = KEY.of_text("u1")
    assert ("seen_before",) in store.inputs["user"]
    found = store.look_up("user", [user, None], [NOW + 1] * 2, ["seen_before", "seen"])
    assert found.columns["seen_before"][0] == 1.0
    assert np.isnan(found.columns["seen_before"][1])
    assert found.columns["seen"][0] == 0.0
    assert found.unknown == 1


def test_ids_are_stored_as_digests_alone(client: TestClient, tmp_path: Path) -> None:
    client.post("/events", json={"events": [impression(CANARY, user=CANARY, ad="a")]})
    content = (tmp_path / "data.mdb").read_bytes()
    assert all(text.encode() not in content for text in (CANARY, KEY.of_text(CANARY)))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "events"),
        ({"events": {}}, "events"),
        ({"events": [CANARY]}, "events"),
        ({"events": [], "more": 1}, "more"),
        ({"events": [{**impression(), "event": CANARY}]}, "event"),
        ({"events": [{**impression(), "event": [CANARY]}]}, "event"),
        ({"events": [impression(None)]}, "impression_id"),
        ({"events": [impression("")]}, "impression_id"),
        ({"events": [impression([CANARY])]}, "impression_id"),
        ({"events": [impression({CANARY: 1})]}, "impression_id"),
        ({"events": [impression(ts=None)]}, "ts"),
        ({"events": [impression(ts="x")]}, "ts"),
        ({"events": [impression(ts=NOW + 10**9)]}, "ts"),
        ({"events": [impression(ts=1.5)]}, "ts"),
        ({"events": [impression(user=[CANARY])]}, "keys"),
        ({"events": [impression(ad={CANARY: 1})]}, "keys"),
        ({"events": [impression(**{CANARY: 1})]}, "keys"),
        ({"events": [{**impression(), "keys": CANARY}]}, "keys"),
        ({"events": [{"event": "click", "impression_id": "i", "ts": NOW, "keys": {"ad": "a"}}]}, "keys"),
        ({"events": [impression(user="u1"), {"event": "click", "impression_id": "i", "ts": -1}]}, "ts"),
    ],
)
def test_bad_events_are_refused_as_a_whole(client: TestClient, events: EventStore, body: dict, field: str) -> None:
    answer = client.post("/events", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field
    assert CANARY not in answer.text
    assert events.values(SEEN, [KEY.of_text("u1")], np.array([NOW + 1])) == [0.0]


def test_too_many_events_and_models_without_events(
    client: TestClient, model: ServedModel, client_of: Callable[..., TestClient]
) -> None:
    body = {"events": [impression()] * (MOST_EVENTS + 1)}
    answer = client.post("/events", json=body)
    assert answer.status_code == 413, answer.text
    assert client_of(model).post("/events", json={"events": []}).status_code == 404


@dataclass
class Slow:
    """Takes a while for each commit, and keeps how many there were."""

    commits: list[int] = field(default_factory=list)
    full: bool = False
    identity = "slow"
    keys = ()
    kinds = ()

    def append_all(self, batches: Sequence[Sequence[Event]], _now: int) -> list[Stored]:
        self.commits.append(len(batches))
        if self.full:
            raise FullError("full")
        return [Stored(len(events), 0) for events in batches]


def test_requests_that_arrive_together_are_one_commit() -> None:
    sink, event = Slow(), Event(IMPRESSION, "i", 1, 1)

    async def several() -> list[Stored]:
        writer = EventWriter(sink, lambda: 1)
        first = await asyncio.gather(*(writer.store([event] * n) for n in range(50)))
        return [*first, await writer.store([event])]

    stored = asyncio.run(several())
    assert [one.accepted for one in stored] == [*range(50), 1]
    assert len(sink.commits) <= 4
    assert sum(sink.commits) == 51


def test_a_full_store_is_said_to_all_that_wait() -> None:
    async def several() -> list[Any]:
        writer = EventWriter(Slow(full=True), lambda: 1)
        return await asyncio.gather(*(writer.store([]) for _ in range(3)), return_exceptions=True)

    assert [(type(one), one.status) for one in asyncio.run(several())] == [(RequestError, 503)] * 3
