"""Requests that cannot be used: each is refused with a message that names what is wrong, and nothing fails."""

import json
from collections.abc import Iterator

import anyio
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.serving.http import RequestError
from ctr_pipeline.serving.http.request_json import read_body

JSON = {"Content-Type": "application/json"}
SCORE, INFER = "/score", "/v2/models/shop/infer"


def tensor(**changes: object) -> str:
    made = {"name": "price", "shape": [2], "datatype": "FP32", "data": [1, 2]} | changes
    return json.dumps({"inputs": [made]})


# Path, body, status, field that the answer names, part of its message.
BAD = [
    (SCORE, "", 400, None, "no JSON"),
    (SCORE, "{", 400, None, "no JSON"),
    (SCORE, b'{"shared": {"ad": "\xff"}}', 400, None, "UTF-8"),
    (SCORE, '{"shared": {"ad": "\\ud800"}}', 400, None, "no JSON"),
    (SCORE, "[]", 400, None, "found a list"),
    (SCORE, "3", 400, None, "found a number"),
    (SCORE, "null", 400, None, "found null"),
    (SCORE, '{"shared": {"price": NaN}}', 400, None, "NaN"),
    (SCORE, '{"shared": {"price": -Infinity}}', 400, None, "Infinity"),
    (SCORE, '{"shared": {"price": 1e999}}', 400, None, "no JSON"),
    (SCORE, '{"shared": {"price": ' + "9" * 5000 + "}}", 400, None, "no JSON"),
    (SCORE, '{"shared": {"price": 1, "price": 2}}', 400, "price", "twice"),
    (SCORE, '{"shared": {}, "shared": {"ad": ":"}}', 400, "shared", "twice"),
    (SCORE, '{"shared": {"price": ' + "[" * 700 + "]" * 700 + "}}", 400, "price", "list"),
    (SCORE, '{"shared": {"ad": ' + "[" * 20000 + "]" * 20000 + "}}", 413, None, "more than 781 lists and objects"),
    (SCORE, '{"shared": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}", 413, None, "more than 1000 fields"),
    (SCORE, "{}", 400, "shared", "neither"),
    (SCORE, '{"rows": []}', 400, "rows", "expected shared"),
    (SCORE, '{"u8842": 1}', 400, None, "may be an id"),
    (SCORE, '{"shared": {"u8842": 1}}', 400, "shared", "feature 0 has a name"),
    (SCORE, '{"candidates": {"ad": ["a"], "u8842@x": [1, 2]}}', 400, "candidates", "feature 1 has a name"),
    (SCORE, '{"shared": {"price2": 1}}', 400, "price2", "did you mean 'price'"),
    (SCORE, '{"shared": []}', 400, "shared", "object"),
    (SCORE, '{"candidates": 3}', 400, "candidates", "object"),
    (SCORE, '{"shared": {}, "logits": 1}', 400, "logits", "true or false"),
    (SCORE, '{"shared": {"prise": 1}}', 400, "prise", "did you mean 'price'"),
    (SCORE, '{"shared": {"price": "12"}}', 400, "price", "found str"),
    (SCORE, '{"shared": {"price": [1]}}', 400, "price", "found list"),
    (SCORE, '{"shared": {"ad": ["a1"]}}', 400, "ad", "found list"),
    (SCORE, '{"shared": {"ad": {"x": 1}}}', 400, "ad", "found dict"),
    (SCORE, '{"shared": {"ad": 12345678901234567890123}}', 400, "ad", "64 bits"),
    (SCORE, '{"candidates": {"price": 1}}', 400, "price", "expected a list"),
    (SCORE, '{"candidates": {"price": [1, 2], "rating": [1]}}', 400, "rating", "1 values"),
    (SCORE, '{"candidates": {"price": [1, "x"]}}', 400, "price", "row 1"),
    (SCORE, '{"shared": {"price": 1}, "candidates": {"price": [1]}}', 400, "price", "give it once"),
    (SCORE, json.dumps({"candidates": {"price": [1] * 501}}), 413, "candidates", "at most 500"),
    (SCORE, json.dumps({"shared": {"ad": ["a"] * 11}}), 413, "ad", "at most 10"),
    (SCORE, json.dumps({"shared": {"ad": "x" * 60_000}}), 413, None, "more than 50000 bytes"),
    (SCORE, json.dumps({"shared": {f"k{at}": 1 for at in range(1000)}}), 413, None, "more than 1000 fields"),
    (SCORE, '{"shared": {"ad": [' + "1," * 7000 + "1]}}", 413, None, "more than 6250 values"),
    (SCORE, '{"shared": {"ad": [' + "[]," * 790 + "1]}}", 413, None, "more than 781 lists and objects"),
    (SCORE, json.dumps({"shared": {"ad": [{"x": 1}] * 1001}}), 413, None, "more than 1000 fields"),
    (INFER, json.dumps({"inputs": [{"name": "price", "shape": [1]}] * 501}), 413, None, "more than 1000 fields"),
    (SCORE, json.dumps({"shared": {"x" * 2000: 1}}), 400, "x" * 100, "2000 characters"),
    (INFER, "{}", 400, "inputs", "list of tensors"),
    (INFER, '{"inputs": [3]}', 400, "inputs", "name, shape"),
    (INFER, tensor(name="prise"), 400, "prise", "no such feature"),
    (INFER, tensor(name="u8842"), 400, "inputs", "may be an id"),
    (INFER, tensor(u8842=1), 400, None, "may be an id"),
    (INFER, tensor(shape=[3]), 400, "price", "shape"),
    (INFER, tensor(shape=[1, 1, 2]), 400, "price", "shape"),
    (INFER, tensor(shape=[-2]), 400, "price", "shape"),
    (INFER, tensor(datatype="FP8"), 400, "price", "datatype"),
    (INFER, tensor(datatype="BOOL"), 400, "price", "BOOL"),
    (INFER, tensor(data=["x", "y"]), 400, "price", "FP32"),
    (INFER, tensor(data=None), 400, "price", "list"),
    (INFER, tensor(value=1), 400, "value", "expected name"),
    (INFER, tensor(shape=[10**12, 0], data=[]), 413, "price", "at most 500"),
    (INFER, tensor(shape=[501], data=[1] * 501), 413, "price", "at most 500"),
    (INFER, tensor().replace("]}]}", ']}], "outputs": [{"name": "buy"}, {"name": "buy"}]}'), 400, "outputs", "twice"),
    (INFER, tensor().replace("]}]}", ']}], "outputs": [{"name": "sale"}]}'), 400, "outputs", "click, buy, like"),
    ("/v2/models/other/infer", tensor(), 404, "name", "shop"),
    ("/nowhere", "{}", 404, None, "no such path"),
    ("/score/", "{}", 404, None, "no such path"),
    ("/healthz", "{}", 405, None, "method"),
]


@pytest.mark.parametrize(("path", "body", "status", "field", "part"), BAD)
def test_a_bad_request_is_refused_with_what_is_wrong(
    path: str, body: str | bytes, status: int, field: str | None, part: str, client: TestClient
) -> None:
    answer = client.post(path, content=body, headers=JSON)
    found = answer.json()
    assert answer.status_code == status, found
    assert part in found["error"]
    assert field is ... or found.get("field") == field
    assert "Traceback" not in answer.text
    # The service goes on.
    assert client.post("/score", json={"shared": {"price": 1}}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({}, "Content-Type"),
        ({"Content-Type": "text/plain"}, "Content-Type"),
        ({"Content-Type": "application/json; charset=latin-1"}, "Content-Type"),
        ({**JSON, "Content-Encoding": "gzip"}, "Content-Encoding"),
        ({**JSON, "Inference-Header-Content-Length": "10"}, "Inference-Header-Content-Length"),
    ],
)
def test_other_bodies_than_plain_json_are_refused(headers: dict[str, str], field: str, client: TestClient) -> None:
    answer = client.post("/score", content=b'{"shared": {}}', headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (415, field)


def test_a_body_without_a_declared_size_is_not_read_beyond_the_limit(client: TestClient) -> None:
    sent = []

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            sent.append(1)
            yield b" " * 10_000

    assert client.post("/score", content=chunks(), headers=JSON).status_code == 413


def test_what_is_left_of_a_large_body_is_not_awaited() -> None:
    taken = []

    async def read() -> None:
        async def chunks():
            for at in range(100):
                taken.append(at)
                yield b"12345"

        await read_body({}, chunks(), 12)

    with pytest.raises(RequestError, match="more than 12 bytes"):
        anyio.run(read)
    assert len(taken) == 3


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=6)  # fmt: skip
NAMES = st.sampled_from(["price", "rating", "ad", "device", "hour", "ts", "other"])
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "shared": st.dictionaries(NAMES, VALUES, max_size=3) | VALUES,
        "candidates": st.dictionaries(NAMES, st.lists(VALUES, max_size=3), max_size=3) | VALUES,
        "logits": VALUES,
    },
)
TENSORS = st.fixed_dictionaries(
    {
        "name": NAMES | LEAVES,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | VALUES,
        "datatype": st.sampled_from(["BYTES", "FP32", "INT64", "BOOL"]) | LEAVES,
        "data": VALUES,
    }
)
BODIES = st.one_of(
    st.tuples(st.just(SCORE), REQUESTS.map(json.dumps).map(str.encode)),
    st.tuples(st.just(INFER), st.fixed_dictionaries({"inputs": st.lists(TENSORS, max_size=2)}).map(json.dumps).map(str.encode)),
    st.tuples(st.sampled_from([SCORE, INFER]), st.binary(max_size=40)),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=BODIES)
def test_no_body_makes_the_service_fail(asked: tuple[str, bytes], client: TestClient) -> None:
    path, body = asked
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code < 500, (body, answer.text)
    assert answer.status_code == 200 or set(answer.json()) <= {"error", "field"}
