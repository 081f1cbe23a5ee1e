"""The checks of all assets. Importing this package registers them."""

from ctr_pipeline.orchestration.checks import (
    attribution,
    canary,
    contracts,
    drift,
    feature_snapshot,
    gradient_health,
    label_quality,
    maturity,
    model_quality,
    promotion,
    propensity,
    skew,
    type_changes,
)
from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, check_results, check_specs, refused

__all__ = [
    "CheckDefinition",
    "Outcome",
    "attribution",
    "canary",
    "check_results",
    "check_specs",
    "contracts",
    "drift",
    "feature_snapshot",
    "gradient_health",
    "label_quality",
    "maturity",
    "model_quality",
    "promotion",
    "propensity",
    "refused",
    "skew",
    "type_changes",
]
