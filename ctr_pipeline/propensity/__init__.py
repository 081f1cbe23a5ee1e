"""Weights that make production traffic resemble randomised traffic, and what they cost."""

from ctr_pipeline.propensity.positions import (
    PositionPropensity,
    PropensityError,
    PropensityTable,
    ResponsePropensity,
    position_propensity,
)
from ctr_pipeline.propensity.rates import ess_share, smoothed_rates

__all__ = [
    "PositionPropensity",
    "PropensityError",
    "PropensityTable",
    "ResponsePropensity",
    "ess_share",
    "position_propensity",
    "smoothed_rates",
]
