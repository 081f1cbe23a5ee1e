"""A bundle on a device: one thread runs its graph, several requests at a time."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import onnx

from ctr_pipeline.serving.bundle import (
    GRAPH,
    MAX_LOGIT_DIFFERENCE,
    MAX_PROBABILITY_DIFFERENCE,
    WEIGHTS,
    Bundle,
    Scores,
)
from ctr_pipeline.serving.gpu.bucketed_session import BucketedSession, sizes_of
from ctr_pipeline.serving.gpu.low_precision import products_in_bfloat16
from ctr_pipeline.serving.gpu.merged_requests import merged_requests, scores_by_request
from ctr_pipeline.serving.gpu.micro_batches import MicroBatches
from ctr_pipeline.serving.request_inputs import RequestInputs
from ctr_pipeline.serving.request_values import BundleError

MAX_BFLOAT16_DIFFERENCE = 0.02
"""Largest difference in probability between products in bfloat16 and the trained model, on the golden rows."""

PROVIDER = "CUDAExecutionProvider"
"""What ONNX Runtime calls computing on CUDA; its package onnxruntime-gpu has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """How a bundle is run.

    Attributes:
        device: ``cuda``, or ``cpu`` for the same steps without a GPU.
        precision: Of matrix products; logits are always of single precision.
        delay: Seconds that a request waits for others at most.
        most: Requests of one run at most.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    precision: Literal["bf16", "fp32"] = "bf16"
    delay: float = 0.001
    most: int = 16


class DeviceScoring:
    """Scores the requests of one bundle.

    Args:
        bundle: The opened bundle, whose golden rows were checked on the processor.
        settings: Device, precision and batches.

    Raises:
        BundleError: the device is absent, or the golden rows do not score on it as they should.
    """

    def __init__(self, bundle: Bundle, settings: DeviceSettings) -> None:
        session = _session(bundle, settings)
        bucketed = BucketedSession(session, settings.device, sizes_of(session))
        self._bundle = dataclasses.replace(bundle, session=bucketed)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._batches: MicroBatches[RequestInputs, Scores] = MicroBatches(
            self._run, most=settings.most, delay=settings.delay, executor=self._executor
        )
        self._executor.submit(bucketed.warm_up).result()
        lowered = settings.precision == "bf16"
        check = partial(
            self._bundle.check_golden,
            max_logit=float("inf") if lowered else MAX_LOGIT_DIFFERENCE,
            max_probability=MAX_BFLOAT16_DIFFERENCE if lowered else MAX_PROBABILITY_DIFFERENCE,
        )
        self._executor.submit(check).result()

    async def scores(self, inputs: RequestInputs) -> Scores:
        """The scores of a request of N candidates."""
        return await self._batches.answer(inputs)

    def close(self) -> None:
        """Ends its thread; requests that wait are answered before."""
        self._executor.shutdown()

    def _run(self, requests: Sequence[RequestInputs]) -> list[Scores]:
        return scores_by_request(self._bundle.score_inputs(merged_requests(requests)), requests)


def refuse_absent_device() -> None:
    """Raises where ONNX Runtime cannot compute on CUDA.

    Raises:
        BundleError: it cannot.
    """
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        raise BundleError(
            f"--device cuda: ONNX Runtime {onnxruntime.__version__} finds no CUDA here. Install onnxruntime-gpu in place of "
            "onnxruntime, on a machine with a GPU, or serve on the processor."
        )


def _session(bundle: Bundle, settings: DeviceSettings) -> Any:
    import onnxruntime

    path = bundle.directory / GRAPH
    if settings.device == "cuda":
        refuse_absent_device()
    model: str | bytes = str(path)
    if settings.precision == "bf16" and settings.device == "cuda":
        if (bundle.directory / WEIGHTS).is_file():
            raise BundleError(f"{path}: above 2 GiB a graph is served in single precision; choose the precision fp32.")
        graph = onnx.load(path)
        products_in_bfloat16(graph)
        model = graph.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[Any] = [(PROVIDER, {"enable_cuda_graph": "1"})] if settings.device == "cuda" else []
    try:
        return onnxruntime.InferenceSession(model, options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}") from error
