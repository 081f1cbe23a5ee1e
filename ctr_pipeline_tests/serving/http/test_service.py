"""Scores over HTTP are those of the bundle; what else the service answers."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.http import Limits, ServedModel
from ctr_pipeline.serving.http.pseudonym_features import pseudonym_features
from ctr_pipeline.sources import Pseudonymiser
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.serving.shop import SPEC

CANARY = "canary-user-4711"


def random_rows(count: int) -> list[dict]:
    rng = np.random.default_rng(3)
    values = {
        "price": [None, 0, 2.5, -7, 1e6],
        "rating": [4.5, None, 3],
        "ad": ["a1", "é", 7, "new", None, ""],
        "device": ["phone", "desk", "tv"],
    }
    return [{name: some[rng.integers(len(some))] for name, some in values.items()} for _ in range(count)]


def columns(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_two_hundred_rows_score_as_the_bundle_scores_them(client: TestClient, bundle: Bundle) -> None:
    rows = random_rows(200)
    expected = bundle.score(*bundle.encode([{**row, "hour": "13"} for row in rows]))
    answer = client.post("/score", json={"shared": {"hour": "13"}, "candidates": columns(rows), "logits": True}).json()
    assert answer["model"] == bundle.sha256
    assert answer["candidates"] == 200
    for at, task in enumerate(bundle.tasks):
        np.testing.assert_allclose(answer["scores"][task], expected.probabilities[:, at], rtol=0, atol=1e-6)
        np.testing.assert_allclose(answer["logits"][task], expected.logits[:, at], rtol=0, atol=1e-6)
    assert np.std(answer["scores"]["click"]) > 0.01


def test_without_candidates_the_shared_features_are_one_row(client: TestClient, bundle: Bundle) -> None:
    row = random_rows(1)[0]
    answer = client.post("/score", json={"shared": row}).json()
    expected = bundle.score(*bundle.encode([row])).probabilities[0]
    np.testing.assert_allclose([answer["scores"][task][0] for task in bundle.tasks], expected, rtol=0, atol=1e-6)
    assert client.post("/score", json={"candidates": {"price": []}}).json()["scores"]["click"] == []


def test_the_open_inference_protocol_gives_the_same_scores(client: TestClient, bundle: Bundle) -> None:
    request = {
        "id": "r1",
        "inputs": [
            {"name": "price", "shape": [3], "datatype": "FP32", "data": [1.0, None, 30.5]},
            {"name": "rating", "shape": [3], "datatype": "INT64", "data": [4, 3, 5]},
            {"name": "ad", "shape": [3], "datatype": "BYTES", "data": ["a1", "é", "7"]},
            {"name": "device", "shape": [1], "datatype": "BYTES", "data": ["desk"]},
        ],
    }
    answer = client.post("/v2/models/shop/infer", json=request).json()
    native = client.post(
        "/score",
        json={
            "shared": {"device": "desk"},
            "candidates": {"price": [1.0, None, 30.5], "rating": [4, 3, 5], "ad": ["a1", "é", "7"]},
        },
    ).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r1", "shop", bundle.sha256)
    assert {one["name"]: one["data"] for one in answer["outputs"]} == native["scores"]
    assert {(one["datatype"], *one["shape"]) for one in answer["outputs"]} == {("FP32", 3)}
    chosen = client.post("/v2/models/shop/infer", json={**request, "outputs": [{"name": "buy"}]}).json()
    assert [one["name"] for one in chosen["outputs"]] == ["buy"]


def test_metadata_and_health(client: TestClient, bundle: Bundle) -> None:
    described = client.get("/v2/models/shop").json()
    assert {one["name"] for one in described["inputs"]} == set(bundle.inputs)
    assert [one["name"] for one in described["outputs"]] == list(bundle.tasks)
    for path in ("/healthz", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/shop/ready"):
        assert client.get(path).status_code == 200, path
    model = client.get("/model").json()
    assert (model["sha256"], model["version"], model["tasks"]) == (bundle.sha256, "3", list(bundle.tasks))
    assert "name: shop" in model["spec"]


def test_metrics_count_requests_candidates_errors_and_unknown_ids(client: TestClient) -> None:
    client.post("/score", json={"candidates": {"ad": ["a1", "new", "newer"]}})
    client.post("/score", json={"shared": {"no_such": 1}})
    client.get(f"/{CANARY}")
    text = client.get("/metrics").text
    assert 'ctr_serve_requests_total{path="/score",status="200"} 1.0' in text
    assert 'ctr_serve_requests_total{path="/score",status="400"} 1.0' in text
    assert 'ctr_serve_requests_total{path="other",status="404"} 1.0' in text
    assert 'ctr_serve_errors_total{kind="field"} 1.0' in text
    assert 'ctr_serve_unknown_ids_total{feature="ad"} 2.0' in text
    assert "ctr_serve_candidates_sum 3.0" in text
    assert CANARY not in text


def test_a_token_is_required_but_for_health(model: ServedModel, client_of: Callable[..., TestClient]) -> None:
    client = client_of(model, token="secret")
    request = {"shared": {"price": 1}}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        answer = client.post("/score", json=request, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["field"] == "Authorization"
    assert client.get("/metrics").status_code == 401
    assert client.get("/healthz").status_code == 200
    assert client.post("/score", json=request, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_requests_beyond_the_limit_are_told_to_come_again(
    model: ServedModel, client_of: Callable[..., TestClient]
) -> None:
    answer = client_of(model, limits=Limits(at_once=0)).post("/score", json={"shared": {}})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_raw_ids_score_as_the_pseudonyms_of_training(
    hashing: ServedModel, model: ServedModel, client_of: Callable[..., TestClient]
) -> None:
    # The vocabulary of training holds pseudonyms: here that of the raw id is one of its keys.
    known = {Pseudonymiser(b"a key of the tests only").of_text("42"): "a1"}
    looked_up = replace(hashing, pseudonym=lambda text: known.get(hashing.pseudonym(text), "new"))
    raw = client_of(looked_up).post("/score", json={"candidates": {"ad": [42, "42", " 42.0", "43", "none", None]}})
    stored = client_of(model).post("/score", json={"candidates": {"ad": ["a1", "a1", "a1", "new", None, None]}})
    assert raw.json()["scores"] == stored.json()["scores"]


def test_the_hash_of_one_text_is_that_of_a_column() -> None:
    hashes = Pseudonymiser(b"a key of the tests only")
    texts = ["42", "é", "a" * 300, " "]
    assert pl.DataFrame({"x": texts}).select(hashes.expr("x"))["x"].to_list() == [*map(hashes.of_text, texts)]


def test_features_of_private_columns_and_the_lists_made_of_them_are_hashed() -> None:
    text = SPEC.replace("time: ts}", "time: ts, user: uid}").replace("{name: ad}", "{name: ad, column: uid}")
    text = text.replace("paths: [/secret/folder/log.parquet]", "paths: [/secret/log.parquet], null_values: {uid: [-1]}")
    assert pseudonym_features(parse_spec(SPEC, "test")) == {}
    assert pseudonym_features(parse_spec(text, "test")) == {"ad": frozenset(("-1",))}


@pytest.mark.parametrize(
    "body",
    [
        {"shared": {"ad": [CANARY]}},
        {"shared": {"ad": {CANARY: 1}}},
        {"candidates": {"ad": CANARY}},
        {"candidates": {"ad": [CANARY, CANARY], "price": [1]}},
        {"candidates": {"ad": [CANARY], "price": ["x"]}},
        {"shared": {"ad": CANARY, "no_such": 1}},
        {"shared": {"ad": CANARY}, "candidates": {"ad": [CANARY]}},
        {"shared": {"ad": CANARY}},
    ],
)
def test_an_id_is_in_no_message_log_or_metric(
    body: dict, hashing: ServedModel, client_of: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    client = client_of(hashing)
    answer = client.post("/score", json=body)
    twice = f'{{"shared": {{"ad": {{"{CANARY}": 1, "{CANARY}": 2}}}}}}'
    infer = {"name": "ad", "shape": [2], "datatype": "INT64", "data": [CANARY]}
    refused = client.post("/score", content=twice, headers={"Content-Type": "application/json"})
    assert refused.status_code == 400
    texts = [answer.text, refused.text, client.post("/v2/models/shop/infer", json={"inputs": [infer]}).text]
    assert all(CANARY not in text for text in (*texts, client.get("/metrics").text, caplog.text))


def test_an_error_of_ours_has_a_number_and_no_detail(
    hashing: ServedModel, client_of: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str) -> str:
        raise RuntimeError(f"cannot hash {text}")

    client = client_of(replace(hashing, pseudonym=broken))
    answer = client.post("/score", json={"shared": {"ad": CANARY}})
    assert answer.status_code == 500
    assert answer.json()["id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert CANARY not in caplog.text + answer.text
    assert "RuntimeError" not in answer.text


def test_the_service_loads_without_torch_and_dagster() -> None:
    code = "import sys, ctr_pipeline.serving.http as _; print([n for n in ('torch', 'dagster', 'mlflow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
