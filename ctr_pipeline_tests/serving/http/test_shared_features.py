"""A service whose candidates share features: the scores of whole rows, and shared features only once a request."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.http import ServedModel

SHARED = {"rating": 4.5, "device": "desk", "hour": 13}
CANDIDATES = {"price": [1.0, None, 30.5], "ad": ["a1", "new", 7]}


@pytest.fixture
def asked(sharing: Bundle, client_of: Callable[..., TestClient]) -> TestClient:
    return client_of(ServedModel.of(sharing, None))


def tensors(**columns: list[Any]) -> dict[str, Any]:
    kinds = {"price": "FP64", "rating": "FP64"}
    return {
        "inputs": [
            {"name": name, "shape": [len(data)], "datatype": kinds.get(name, "BYTES"), "data": data}
            for name, data in columns.items()
        ]
    }


def test_scores_are_those_of_whole_rows(asked: TestClient, bundle: Bundle) -> None:
    rows = [SHARED | {name: values[at] for name, values in CANDIDATES.items()} for at in range(3)]
    expected = bundle.score(*bundle.encode(rows)).probabilities
    answer = asked.post("/score", json={"shared": SHARED, "candidates": CANDIDATES}).json()
    alone = [asked.post("/score", json={"shared": row}).json()["scores"]["buy"][0] for row in rows]
    inferred = asked.post(
        "/v2/models/shop/infer", json=tensors(hour=["13"], device=["desk"], rating=[4.5], price=[1, 2])
    ).json()
    for at, task in enumerate(bundle.tasks):
        np.testing.assert_allclose(answer["scores"][task], expected[:, at], rtol=0, atol=1e-6)
    np.testing.assert_allclose(alone, answer["scores"]["buy"], rtol=0, atol=1e-6)
    assert inferred["outputs"][0]["shape"] == [2]
    # The shared values are counted once, candidates one by one.
    assert 'ctr_serve_unknown_ids_total{feature="ad"} 2.0' in asked.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "content", "field"),
    [
        ("/score", {"candidates": {"device": ["desk", "phone"]}}, "device"),
        ("/score", {"candidates": {"price": [1], "rating": [4]}}, "rating"),
        ("/v2/models/shop/infer", tensors(price=[1, 2], rating=[4, 5]), "rating"),
    ],
)
def test_a_shared_feature_of_each_candidate_is_refused(
    path: str, content: dict[str, Any], field: str, asked: TestClient
) -> None:
    answer = asked.post(path, json=content)
    assert answer.status_code == 400
    assert answer.json()["field"] == field
    assert "is the same for all candidates of this model" in answer.json()["error"]


def test_an_inference_request_of_one_row_may_hold_every_feature(asked: TestClient) -> None:
    assert asked.post("/v2/models/shop/infer", json=tensors(price=[1], rating=[4], device=["desk"])).status_code == 200


def test_metadata_tell_what_is_shared(asked: TestClient) -> None:
    shapes = {one["name"]: one["shape"] for one in asked.get("/v2/models/shop").json()["inputs"]}
    assert shapes == {"price": [-1], "rating": [1], "ad": [-1], "device": [1], "hour": [1]}
    assert asked.get("/model").json()["candidate_features"] == ["price", "ad"]
