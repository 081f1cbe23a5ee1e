"""A service that ranks: the ranking score beside the tasks, and the bids that it needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fastapi.testclient import TestClient

from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.bundle import write_manifest
from ctr_pipeline.serving.http import ServedModel
from ctr_pipeline_tests.serving.shop import SPEC
from ctr_pipeline_tests.serving.test_bundle import copied

CANDIDATES = {"ad": ["a1", "a2", "new"], "price": [1, 2, 3]}


@pytest.fixture
def ranked(bundle: Bundle, client_of: Callable[..., TestClient], tmp_path: Path) -> Callable[..., TestClient]:
    """The shop's bundle with terms of a ranking score in its spec."""

    def client(*terms: dict[str, Any]) -> TestClient:
        folder = copied(bundle, tmp_path)
        content = yaml.safe_load(SPEC) | {"serving": {"score": list(terms)}}
        (folder / "spec.yaml").write_text(yaml.safe_dump(content))
        write_manifest(folder, "shop", bundle.tasks)
        return client_of(ServedModel.of(Bundle.open(folder), None))

    return client


def test_weights_need_nothing_of_the_request(ranked: Callable[..., TestClient]) -> None:
    client = ranked({"task": "click"}, {"task": "buy", "weight": 10})
    answer = client.post("/score", json={"candidates": CANDIDATES}).json()
    click, buy = np.array(answer["scores"]["click"]), np.array(answer["scores"]["buy"])
    np.testing.assert_allclose(answer["ranking_score"], click + 10 * buy, rtol=1e-6)
    assert client.get("/model").json()["bids"] == []


def test_bids_may_be_no_features_and_come_with_either_part(ranked: Callable[..., TestClient]) -> None:
    client = ranked({"task": "click", "bid": "bid"}, {"task": "like", "bid": "floor"}, {"task": "buy", "bid": "price"})
    content = {"shared": {"floor": 3}, "candidates": CANDIDATES | {"bid": [2, None, 0.5]}}
    answer = client.post("/score", json=content).json()
    click, like, buy = (np.array(answer["scores"][task]) for task in ("click", "like", "buy"))
    expected = click * [2, np.nan, 0.5] + 3 * like + buy * [1, 2, 3]
    found = answer["ranking_score"]
    assert found[1] is None
    np.testing.assert_allclose([found[0], found[2]], expected[[0, 2]], rtol=1e-6)
    # The scores are those of a request without bids.
    assert client.post("/score", json={"candidates": CANDIDATES}).json()["scores"] == answer["scores"]
    only = client.post("/score", json={"shared": {"ad": "a1"}, "candidates": {"bid": [1, 2]}}).json()
    assert only["candidates"] == 2


def test_the_open_inference_protocol_has_it_as_an_output(ranked: Callable[..., TestClient]) -> None:
    client = ranked({"task": "click", "bid": "bid"})
    described = client.get("/v2/models/shop").json()
    assert {"name": "bid", "datatype": "FP64", "shape": [-1]} in described["inputs"]
    assert {"name": "ranking_score", "datatype": "FP64", "shape": [-1]} in described["outputs"]
    inputs = [
        {"name": "price", "shape": [2], "datatype": "FP32", "data": [1, 2]},
        {"name": "bid", "shape": [2], "datatype": "FP32", "data": [0.5, 4]},
    ]
    every = client.post("/v2/models/shop/infer", json={"inputs": inputs}).json()["outputs"]
    assert [one["name"] for one in every] == ["click", "buy", "like", "ranking_score"]
    np.testing.assert_allclose(every[3]["data"], np.array(every[0]["data"]) * [0.5, 4], rtol=1e-6)
    chosen = {"inputs": inputs, "outputs": [{"name": "ranking_score"}]}
    assert [one["name"] for one in client.post("/v2/models/shop/infer", json=chosen).json()["outputs"]] == [
        "ranking_score"
    ]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"candidates": {"price": [1, 2], "bid": [1, -2]}}, "row 1: bid 'bid': found a number below 0"),
        ({"candidates": {"price": [1, 2], "bid": [1, "2"]}}, "row 1: bid 'bid': found str"),
        ({"candidates": {"price": [1, 2], "bid": [1]}}, "has 1 values"),
        ({"candidates": {"price": [1, 2], "bid": 3}}, "expected a list"),
        ({"shared": {"bid": [1]}}, "shared: row 0: bid 'bid': found list"),
        ({"shared": {"bid": 1}, "candidates": {"bid": [1]}}, "give it once"),
    ],
)
def test_wrong_bids_are_refused(content: dict[str, Any], part: str, ranked: Callable[..., TestClient]) -> None:
    answer = ranked({"task": "click", "bid": "bid"}).post("/score", json=content)
    assert (answer.status_code, answer.json()["field"]) == (400, "bid")
    assert part in answer.json()["error"]


def test_a_model_that_ranks_by_nothing_knows_no_bid(client: TestClient) -> None:
    answer = client.post("/score", json={"candidates": CANDIDATES | {"bid": [1, 2, 3]}})
    assert (answer.status_code, answer.json()["field"]) == (400, "bid")
    assert "ranking_score" not in client.post("/score", json={"candidates": CANDIDATES}).json()
