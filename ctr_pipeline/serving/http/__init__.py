"""A bundle behind HTTP. Nothing here reads the environment or a clock: model, token, limits and clock are passed in."""

from ctr_pipeline.serving.http.request_json import Limits, RequestError
from ctr_pipeline.serving.http.request_scoring import ServedModel
from ctr_pipeline.serving.http.served_arms import ServedArms, ServedModels
from ctr_pipeline.serving.http.service import build_service
from ctr_pipeline.serving.http.service_metrics import ServiceMetrics

__all__ = ["Limits", "RequestError", "ServedArms", "ServedModel", "ServedModels", "ServiceMetrics", "build_service"]
