"""Weights that make production traffic resemble randomised traffic, and what they cost."""

from ctr_pipeline.propensity.policy import PolicyValue, policy_value
from ctr_pipeline.propensity.positions import (
    PositionPropensity,
    PropensityError,
    PropensityTable,
    ResponsePropensity,
    position_propensity,
)
from ctr_pipeline.propensity.rates import ess_share, smoothed_rates

__all__ = [
    "PolicyValue",
    "PositionPropensity",
    "PropensityError",
    "PropensityTable",
    "ResponsePropensity",
    "ess_share",
    "policy_value",
    "position_propensity",
    "smoothed_rates",
]
