"""History aggregates, vocabularies, statistics, and the layout of the model's inputs."""

from ctr_pipeline.features.daily_grid import HISTORY_COLUMNS
from ctr_pipeline.features.drift_detection import REFERENCE_DAYS, SYMPTOMS, Finding, evaluated_days, find_drift
from ctr_pipeline.features.history import HISTORY_ORDER, history_for_days, history_reach, join_history
from ctr_pipeline.features.layout import (
    FIRST_VOCABULARY_ROW,
    MISSING_ROW,
    PADDING,
    UNKNOWN_ROW,
    Group,
    IdColumn,
    Layout,
    LayoutError,
    NumericColumn,
    Pooled,
)
from ctr_pipeline.features.profile import PROFILE_SCHEMA, profile_days, profiled_columns
from ctr_pipeline.features.vocabulary import (
    VOCABULARY_SCHEMA,
    embedding_rows,
    encode_ids,
    fit_layout,
    id_matrix,
    number_columns,
    numeric_matrix,
    signed_log1p,
)

__all__ = [
    "FIRST_VOCABULARY_ROW",
    "HISTORY_COLUMNS",
    "HISTORY_ORDER",
    "MISSING_ROW",
    "PADDING",
    "PROFILE_SCHEMA",
    "REFERENCE_DAYS",
    "SYMPTOMS",
    "UNKNOWN_ROW",
    "VOCABULARY_SCHEMA",
    "Finding",
    "Group",
    "IdColumn",
    "Layout",
    "LayoutError",
    "NumericColumn",
    "Pooled",
    "embedding_rows",
    "encode_ids",
    "evaluated_days",
    "find_drift",
    "fit_layout",
    "history_for_days",
    "history_reach",
    "id_matrix",
    "join_history",
    "number_columns",
    "numeric_matrix",
    "profile_days",
    "profiled_columns",
    "signed_log1p",
]
