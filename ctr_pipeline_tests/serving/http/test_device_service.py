"""A service whose model is on another device; the processor stands in for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.gpu import DeviceScoring, DeviceSettings
from ctr_pipeline.serving.http import ServedModel


@pytest.fixture
def device(sharing: Bundle) -> Iterator[DeviceScoring]:
    found = DeviceScoring(sharing, DeviceSettings(device="cpu", precision="fp32"))
    yield found
    found.close()


def test_it_answers_as_the_processor_does(
    sharing: Bundle, device: DeviceScoring, client_of: Callable[..., TestClient]
) -> None:
    model = ServedModel.of(sharing, None)
    asked = {"shared": {"rating": 4.5, "device": "desk", "hour": 13}, "candidates": {"price": [1.0, None, 30.5]}}
    with client_of(model) as plain, client_of(replace(model, batches=device)) as other:
        expected, found = plain.post("/score", json=asked).json(), other.post("/score", json=asked).json()
        assert other.post("/score", json={"shared": {"colour": 1}}).status_code == 400
    assert len(expected["scores"]["buy"]) == 3
    for task, values in expected["scores"].items():
        assert found["scores"][task] == pytest.approx(values, abs=1e-6)
