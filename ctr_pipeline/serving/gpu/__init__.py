"""Scoring on a GPU: fixed sizes, products in bfloat16, requests that are run together."""

from ctr_pipeline.serving.gpu.bucketed_session import BucketedSession
from ctr_pipeline.serving.gpu.device_scoring import DeviceScoring, DeviceSettings, refuse_absent_device
from ctr_pipeline.serving.gpu.low_precision import products_in_bfloat16
from ctr_pipeline.serving.gpu.micro_batches import MicroBatches

__all__ = [
    "BucketedSession",
    "DeviceScoring",
    "DeviceSettings",
    "MicroBatches",
    "products_in_bfloat16",
    "refuse_absent_device",
]
