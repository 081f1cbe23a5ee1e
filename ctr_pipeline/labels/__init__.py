"""What is known of each impression's outcomes as of an instant: windows, maturity, censoring, revisions."""

from ctr_pipeline.labels.holding import held
from ctr_pipeline.labels.labelling import FACT_COLUMNS, LABEL_COLUMNS, label_facts, label_impressions, labels_of
from ctr_pipeline.labels.quality import KeyQuality, KeyStatus, QualityTable, TaskQuality, label_quality
from ctr_pipeline.labels.revisions import REVISION_COLUMNS, revisions
from ctr_pipeline.labels.settled import join_settled
from ctr_pipeline.labels.states import (
    LabelState,
    label_maturity,
    label_value,
    mature_ts,
    settles_without_events,
    state_at,
    state_counts,
    states_as_of,
)
from ctr_pipeline.labels.stored_states import stored_states
from ctr_pipeline.labels.table import (
    TABLE_COLUMNS,
    TABLE_ORDER,
    LabelDay,
    facts_in,
    join_known,
    join_labels,
    label_column,
    label_days,
    label_state_counts,
    label_table,
)
from ctr_pipeline.labels.watermark import arrival_watermark, log_watermarks, task_watermarks

__all__ = [
    "FACT_COLUMNS",
    "LABEL_COLUMNS",
    "REVISION_COLUMNS",
    "TABLE_COLUMNS",
    "TABLE_ORDER",
    "KeyQuality",
    "KeyStatus",
    "LabelDay",
    "LabelState",
    "QualityTable",
    "TaskQuality",
    "arrival_watermark",
    "facts_in",
    "held",
    "join_known",
    "join_labels",
    "join_settled",
    "label_column",
    "label_days",
    "label_facts",
    "label_impressions",
    "label_maturity",
    "label_quality",
    "label_state_counts",
    "label_table",
    "label_value",
    "labels_of",
    "log_watermarks",
    "mature_ts",
    "revisions",
    "settles_without_events",
    "state_at",
    "state_counts",
    "states_as_of",
    "stored_states",
    "task_watermarks",
]
