"""What the service hands to its log, and what of a request is for the log alone."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from ctr_pipeline.serving.http import Limits, ServedModel, ServedModels, ServiceMetrics, build_service
from ctr_pipeline.serving.http.served_request import ServedRequest
from ctr_pipeline.serving.release import Arm

CANDIDATES: dict[str, Any] = {"ad": ["a1", "a2", "zz"], "price": [1, None, 3.5]}


class Kept:
    def __init__(self) -> None:
        self.requests: list[ServedRequest] = []

    def offer(self, request: ServedRequest) -> None:
        self.requests.append(request)


def asked(model: ServedModel, path: str, content: dict[str, Any]) -> tuple[Any, Kept]:
    kept = Kept()
    service = build_service(
        ServedModels.of(model), limits=Limits(), token=None, clock=time.perf_counter, metrics=ServiceMetrics(), version="0",
        request_log=kept,
    )  # fmt: skip
    with TestClient(service) as client:
        return client.post(path, json=content), kept


def test_the_log_gets_what_the_model_got(model: ServedModel) -> None:
    content = {"shared": {"device": "phone"}, "candidates": CANDIDATES, "request_id": "r1"}
    answer, kept = asked(model, "/score", content)
    [found] = kept.requests
    numeric, ids = model.bundle.encode(
        [{"device": "phone", "ad": a, "price": p} for a, p in zip(*CANDIDATES.values(), strict=True)]
    )
    np.testing.assert_array_equal(found.numeric, numeric)
    np.testing.assert_array_equal(found.ids, ids)
    assert answer.json()["scores"]["click"] == pytest.approx(found.scores.probabilities[:, 0].tolist())
    assert (found.request_id, found.arm, found.model_sha) == ("r1", Arm.CHAMPION, model.bundle.sha256)
    assert (found.impression_ids, found.ts) == (None, None)


def test_ids_and_times_of_impressions_are_no_features(model: ServedModel) -> None:
    candidates = {**CANDIDATES, "impression_id": ["x", 7, None]}
    content = {"shared": {"device": "phone", "ts": 12}, "candidates": candidates}
    answer, kept = asked(model, "/score", content)
    plain, _ = asked(model, "/score", {"shared": {"device": "phone"}, "candidates": CANDIDATES})
    assert answer.json() == plain.json()
    assert (kept.requests[0].impression_ids, kept.requests[0].ts) == (["x", 7, None], 12)
    one, kept = asked(model, "/score", {"shared": {"ad": "a1", "impression_id": "x"}})
    assert (one.status_code, kept.requests[0].impression_ids) == (200, ["x"])


def test_the_inference_protocol_has_them_as_tensors(model: ServedModel) -> None:
    tensors = [
        {"name": "ad", "shape": [2], "datatype": "BYTES", "data": ["a1", "a2"]},
        {"name": "impression_id", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]},
        {"name": "ts", "shape": [1], "datatype": "INT64", "data": [5]},
    ]
    answer, kept = asked(model, f"/v2/models/{model.bundle.name}/infer", {"id": "r", "inputs": tensors})
    assert answer.status_code == 200
    assert [kept.requests[0].request_id, kept.requests[0].impression_ids, kept.requests[0].ts] == ["r", ["x", "y"], 5]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"shared": {"impression_id": "x"}, "candidates": CANDIDATES}, "impression_id"),
        ({"candidates": {**CANDIDATES, "impression_id": ["x"]}}, "impression_id"),
        ({"candidates": {**CANDIDATES, "impression_id": "x"}}, "impression_id"),
        ({"candidates": {**CANDIDATES, "impression_id": ["x", True, "y"]}}, "impression_id"),
        ({"candidates": {**CANDIDATES, "impression_id": ["x", 1.5, "y"]}}, "impression_id"),
        ({"candidates": {**CANDIDATES, "impression_id": ["x" * 201, "z", "y"]}}, "impression_id"),
        ({"candidates": {"impression_id": ["x", "y"]}}, "impression_id"),
        ({"shared": {"ts": "now"}, "candidates": CANDIDATES}, "ts"),
        ({"candidates": {**CANDIDATES, "ts": [1, 2]}}, "ts"),
        ({"candidates": {**CANDIDATES, "ts": [1, 2, -3]}}, "ts"),
        ({"candidates": CANDIDATES, "request_id": 7}, "request_id"),
        ({"candidates": CANDIDATES, "request_id": ""}, "request_id"),
        ({"candidates": CANDIDATES, "request_id": "r" * 201}, "request_id"),
    ],
)
def test_what_cannot_be_used_is_refused_and_not_logged(model: ServedModel, content: dict[str, Any], field: str) -> None:
    answer, kept = asked(model, "/score", content)
    assert (answer.status_code, answer.json()["field"], kept.requests) == (400, field, [])


def test_a_refused_request_is_not_logged(model: ServedModel) -> None:
    answer, kept = asked(replace(model), "/score", {"candidates": {"ad": [["a1"]]}})
    assert (answer.status_code, kept.requests) == (400, [])
