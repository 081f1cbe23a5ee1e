"""A bundle behind HTTP. Nothing here reads the environment or a clock: model, token, limits and clock are passed in."""

from ctr_pipeline.serving.http.request_json import Limits, RequestError
from ctr_pipeline.serving.http.request_scoring import ServedModel
from ctr_pipeline.serving.http.service import build_service
from ctr_pipeline.serving.http.service_metrics import ServiceMetrics

__all__ = ["Limits", "RequestError", "ServedModel", "ServiceMetrics", "build_service"]
