"""Requests that are run together on a device score as alone; on the processor in place of a GPU."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.gpu import DeviceScoring, DeviceSettings, refuse_absent_device
from ctr_pipeline.serving.gpu.merged_requests import merged_requests, scores_by_request
from ctr_pipeline.serving.request_inputs import RequestInputs
from ctr_pipeline_tests.serving.shop import Shop

HERE = DeviceSettings(device="cpu", precision="fp32", delay=0.02, most=5)


@pytest.fixture(params=["bundle", "sharing"])
def either(request: pytest.FixtureRequest) -> Bundle:
    found: Bundle = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def device(either: Bundle) -> Iterator[DeviceScoring]:
    found = DeviceScoring(either, HERE)
    yield found
    found.close()


def requests_of(bundle: Bundle, shop: Shop, sizes: list[int]) -> list[RequestInputs]:
    """Requests of as many candidates, each with the shared part of its first row."""
    found, at = [], 0
    numeric, ids = shop.rows(sum(sizes))
    for size in sizes:
        inputs = RequestInputs.of_rows(numeric[at : at + size], ids[at : at + size], bundle.columns)
        if bundle.columns.share and len(inputs.shared_ids) > 1:
            inputs = RequestInputs(
                bundle.columns,
                inputs.shared_numeric[:1],
                inputs.shared_ids[:1],
                inputs.numeric.swapaxes(0, 1),
                inputs.ids.swapaxes(0, 1),
            )
        found.append(inputs)
        at += size
    return found


def test_merged_requests_come_apart_again(either: Bundle, shop: Shop) -> None:
    requests = requests_of(either, shop, [3, 1, 7, 2])
    found = scores_by_request(either.score_inputs(merged_requests(requests)), requests)
    for request, scores in zip(requests, found, strict=True):
        alone = either.score_inputs(request)
        assert scores.logits.shape == alone.logits.shape
        assert np.abs(scores.logits - alone.logits).max() <= 1e-6
        assert np.abs(scores.probabilities - alone.probabilities).max() <= 1e-6


def test_requests_at_once_score_as_alone(either: Bundle, device: DeviceScoring, shop: Shop) -> None:
    # More candidates than the largest size among them, and more requests than a run takes.
    requests = requests_of(either, shop, [1, 5, 64, 65, 300, 2, 1030, 9])

    async def at_once() -> list[np.ndarray]:
        found = await asyncio.gather(*map(device.scores, requests))
        return [scores.probabilities for scores in found]

    for request, probabilities in zip(requests, asyncio.run(at_once()), strict=True):
        expected = either.score_inputs(request).probabilities
        assert probabilities.shape == expected.shape
        assert np.abs(probabilities - expected).max() <= 1e-6


def test_without_a_gpu_the_device_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="onnxruntime-gpu"):
        refuse_absent_device()
    with pytest.raises(BundleError, match="onnxruntime-gpu"):
        DeviceScoring(bundle, DeviceSettings())
