"""What is known of each impression's outcomes as of an instant: windows, maturity, censoring, revisions."""

from ctr_pipeline.labels.impressions import LABEL_COLUMNS, label_impressions
from ctr_pipeline.labels.states import (
    LabelState,
    label_maturity,
    label_value,
    state_at,
    state_counts,
    states_as_of,
)
from ctr_pipeline.labels.watermark import arrival_watermark

__all__ = [
    "LABEL_COLUMNS",
    "LabelState",
    "arrival_watermark",
    "label_impressions",
    "label_maturity",
    "label_value",
    "state_at",
    "state_counts",
    "states_as_of",
]
