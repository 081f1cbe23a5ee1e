"""Features of the past come from a store where a request does not have them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
from fastapi.testclient import TestClient

from ctr_pipeline.features.layout import FromTime
from ctr_pipeline.serving.history_lookup import FoundHistory, StoreState
from ctr_pipeline.serving.http import ServedModel
from ctr_pipeline.serving.http.request_history import USER, KeySource, RequestHistory
from ctr_pipeline.sources import Pseudonymiser

NOW = 1_700_000_000_000_000
KEY = Pseudonymiser(b"a key of the tests only")
CANARY = "canary-user-4711"
STATE = StoreState(snapshot="0f", day="2026-01-02", late=False, problem=None)


@dataclass
class Past:
    """Knows a price and a device by user, and a rating by ad; keeps what it is asked for."""

    state_now: StoreState = STATE
    refreshed: int = 0
    asked: list[tuple[str, list[str | None], list[int], list[str]]] = field(default_factory=list)

    inputs: ClassVar = {"user": (("price",), ("device",)), "ad": (("rating",),)}

    def look_up(
        self, key: str, texts: Sequence[str | None], times: Sequence[int], names: Collection[str]
    ) -> FoundHistory:
        self.asked.append((key, list(texts), list(times), list(names)))
        values = {"price": [float(time % 1000) for time in times], "device": ["desk"] * len(texts)}
        values["rating"] = [None if text is None else float(len(text)) for text in texts]
        return FoundHistory({name: values[name] for name in names}, texts.count("new"), 0)

    def refresh(self) -> None:
        self.refreshed += 1

    def state(self, now: int) -> StoreState:
        return replace(self.state_now, problem=None if now == NOW else "asked of another time")


@pytest.fixture
def past() -> Past:
    return Past()


@pytest.fixture
def client(model: ServedModel, past: Past, client_of: Callable[..., TestClient]) -> TestClient:
    table = model.bundle.vocabulary.rows("ad", ())
    sources = {
        "user": KeySource((USER, "hour"), frozenset(("none",)), hashed=True),
        "ad": KeySource(("ad",), frozenset(("na",)), hashed=False, known=table),
    }
    history = RequestHistory(past, sources, KEY.of_text, lambda: NOW, keeps_time=False)
    return client_of(replace(model, history=history))


def test_the_key_of_an_event_may_be_a_part_of_its_time(past: Past) -> None:
    hour = KeySource(("hour",), frozenset(), hashed=False, made_of_time=FromTime("hour", "UTC"))
    history = RequestHistory(past, {"hour": hour}, None, lambda: NOW, keeps_time=False)
    at = 17 * 3_600_000_000
    assert history.key_text("hour", {}, at) == "17"
    assert history.key_text("hour", {"hour": 5}, at) == "5"


def scores(client: TestClient, **content: Any) -> Any:
    answer = client.post("/score", json=content)
    assert answer.status_code == 200, answer.text
    return answer.json()["scores"]


def test_what_is_found_scores_as_if_the_request_had_it(
    client: TestClient, past: Past, model: ServedModel, client_of: Callable[..., TestClient]
) -> None:
    found = scores(client, shared={"user": "u1", "ts": 5}, candidates={"ad": ["a1", "a2", "new"]})
    with_all = {"ad": ["a1", "a2", "new"], "rating": [2, 2, 3]}
    expected = scores(client_of(model), shared={"price": 5, "device": "desk"}, candidates=with_all)
    assert found == expected
    hashed = KEY.of_text("u1")
    assert past.asked == [
        ("user", [hashed], [5], ["price", "device"]),
        ("ad", ["a1", "a2", "new"], [5] * 3, ["rating"]),
    ]


def test_the_requests_own_values_count(client: TestClient, past: Past) -> None:
    scores(client, shared={"user": "u1", "price": 3}, candidates={"ad": ["a1"], "rating": [None]})
    assert [(key, names) for key, _, _, names in past.asked] == [("user", ["device"])]


def test_the_time_is_the_requests_else_now_and_may_be_each_candidates_own(client: TestClient, past: Past) -> None:
    scores(client, shared={"user": "u1"})
    scores(client, shared={"user": "u1", "ts": None})
    scores(client, shared={"user": "u1"}, candidates={"ts": [7, None], "ad": ["a1", "a2"]})
    times = [times for key, _, times, _ in past.asked if key == "user"]
    assert times == [[NOW], [NOW], [7, NOW]]
    texts = [texts for key, texts, _, _ in past.asked if key == "user"]
    assert texts[2] == [KEY.of_text("u1")] * 2


def test_times_of_candidates_make_the_users_past_their_own(
    client: TestClient, model: ServedModel, client_of: Callable[..., TestClient]
) -> None:
    found = scores(client, shared={"user": "u1"}, candidates={"ts": [7, 80]})
    assert found == scores(client_of(model), candidates={"price": [7, 80], "device": ["desk", "desk"]})
    assert len(set(found["click"])) == 2


def test_keys_are_the_texts_of_the_log(client: TestClient, past: Past) -> None:
    ads = ["é", " é ", 7, 7.0, "7.0", True, None, "", "na", "other"]
    scores(client, shared={"user": 42}, candidates={"ad": ads})
    scores(client, candidates={"user": ["42.0", " 42", "none", None, ""], "ad": ["a1"] * 5})
    texts = [(key, texts) for key, texts, _, _ in past.asked]
    assert texts[1] == ("ad", ["é", "é", "7", "7", "7", "true", None, None, None, "other"])
    assert texts[0] == ("user", [KEY.of_text("42")])
    assert texts[2] == ("user", [KEY.of_text("42"), KEY.of_text("42"), None, None, None])


def test_a_feature_of_the_users_column_does_for_the_user(client: TestClient, past: Past) -> None:
    scores(client, shared={"hour": "13"})
    scores(client, shared={"hour": "13", "user": "u2"})
    assert [texts for key, texts, _, _ in past.asked if key == "user"] == [[KEY.of_text("13")], [KEY.of_text("u2")]]


def test_no_candidates_ask_for_nothing(client: TestClient) -> None:
    assert scores(client, shared={"user": "u1"}, candidates={"ad": []})["click"] == []


def test_the_open_inference_protocol_looks_up_too(client: TestClient, past: Past) -> None:
    inputs = [
        {"name": "user", "shape": [1], "datatype": "BYTES", "data": ["u1"]},
        {"name": "ts", "shape": [1], "datatype": "INT64", "data": [5]},
        {"name": "ad", "shape": [2], "datatype": "BYTES", "data": ["a1", "a2"]},
    ]
    answer = client.post("/v2/models/shop/infer", json={"inputs": inputs}).json()
    assert answer["outputs"][0]["data"] == scores(client, shared={"user": "u1", "ts": 5}, candidates={"ad": ["a1", "a2"]})["click"]  # fmt: skip
    assert past.asked[0][1:3] == ([KEY.of_text("u1")], [5])


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"shared": {"user": [CANARY]}}, "user"),
        ({"shared": {"user": {CANARY: 1}}}, "user"),
        ({"candidates": {"user": [CANARY, [CANARY]]}}, "user"),
        ({"shared": {"user": 1e300}}, "user"),
        ({"shared": {"user": CANARY, "ts": "2026-01-01"}}, "ts"),
        ({"shared": {"user": CANARY, "ts": -1}}, "ts"),
        ({"shared": {"user": CANARY, "ts": 1.5}}, "ts"),
        ({"shared": {"user": CANARY, "ts": 10**30}}, None),
        ({"shared": {"user": CANARY, "ts": True}}, "ts"),
        ({"candidates": {"ts": [1, "x"], "ad": [CANARY, "a1"]}}, "ts"),
        ({"shared": {"ts": [1]}}, "ts"),
        ({"shared": {"user": CANARY}, "candidates": {"user": [CANARY]}}, "user"),
        ({"candidates": {"ad": [[CANARY]]}}, "ad"),
    ],
)
def test_bad_keys_and_times_are_named_and_never_repeated(client: TestClient, body: dict, name: str | None) -> None:
    answer = client.post("/score", json=body)
    assert answer.status_code == 400
    assert answer.json().get("field") == name or name is None
    assert CANARY not in answer.text


def test_what_is_not_found_is_counted(client: TestClient) -> None:
    scores(client, candidates={"ad": ["new", "a1", "new"]})
    scores(client, shared={"user": "u1"})
    text = client.get("/metrics").text
    assert 'ctr_serve_history_keys_total{key="ad",kind="unknown"} 2.0' in text
    assert 'ctr_serve_history_keys_total{key="user",kind="absent"} 1.0' in text
    assert 'ctr_serve_history_keys_total{key="ad",kind="absent"} 1.0' in text
    assert "ctr_serve_history_day_seconds 1.767312e+09" in text


def test_a_store_without_a_snapshot_is_not_ready(client: TestClient, past: Past) -> None:
    described = client.get("/model").json()["history"]
    assert described["keys"]["ad"] == {"fields": ["ad"], "inputs": ["rating"]}
    assert (described["snapshot"], described["day"], described["late"]) == ("0f", "2026-01-02", False)
    assert client.get("/readyz").json() == {"ready": True, "history_day": "2026-01-02", "history_late": False}
    past.state_now = StoreState(snapshot=None, day=None, late=True, problem="/secret: none")
    for path in ("/readyz", "/v2/health/ready", "/v2/models/shop/ready"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert "/secret" not in answer.text
    assert "ctr_serve_history_day_seconds 0.0" in client.get("/metrics").text
    assert client.get("/healthz").status_code == 200


def test_what_candidates_share_cannot_be_looked_up_for_each(
    model: ServedModel, past: Past, client_of: Callable[..., TestClient]
) -> None:
    sources = {
        "user": KeySource((USER,), frozenset(), hashed=True),
        "ad": KeySource(("ad",), frozenset(), hashed=False),
    }
    history = RequestHistory(past, sources, KEY.of_text, lambda: NOW, keeps_time=False, shared=frozenset(("price",)))
    client = client_of(replace(model, history=history))
    for body, name in (
        ({"candidates": {"user": [CANARY, CANARY]}}, "user"),
        ({"shared": {"user": CANARY}, "candidates": {"ts": [1, 2]}}, "ts"),
    ):
        answer = client.post("/score", json=body)
        assert (answer.status_code, answer.json()["field"]) == (400, name)
        assert f"give '{name}' in `shared`" in answer.text
        assert CANARY not in answer.text
    assert (
        client.post("/score", json={"shared": {"user": "u", "ts": 1}, "candidates": {"ad": ["a1"]}}).status_code == 200
    )
