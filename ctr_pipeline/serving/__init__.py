"""The model as it is served: a verified bundle that scores without torch. Exporting one is in ``export``."""

from ctr_pipeline.serving.bundle import Bundle, Scores
from ctr_pipeline.serving.parity import Parity, measure_parity
from ctr_pipeline.serving.request_values import BundleError

__all__ = ["Bundle", "BundleError", "Parity", "Scores", "measure_parity"]
