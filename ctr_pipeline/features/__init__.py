"""History aggregates, vocabularies, statistics, and the layout of the model's inputs."""

from ctr_pipeline.features.history import HISTORY_COLUMNS, history_for_days, history_reach, join_history
from ctr_pipeline.features.layout import (
    FIRST_VOCABULARY_ROW,
    MISSING_ROW,
    UNKNOWN_ROW,
    IdColumn,
    Layout,
    LayoutError,
    NumericColumn,
)
from ctr_pipeline.features.vocabulary import VOCABULARY_SCHEMA, encode_ids, fit_layout, numeric_matrix, signed_log1p

__all__ = [
    "FIRST_VOCABULARY_ROW",
    "HISTORY_COLUMNS",
    "MISSING_ROW",
    "UNKNOWN_ROW",
    "VOCABULARY_SCHEMA",
    "IdColumn",
    "Layout",
    "LayoutError",
    "NumericColumn",
    "encode_ids",
    "fit_layout",
    "history_for_days",
    "history_reach",
    "join_history",
    "numeric_matrix",
    "signed_log1p",
]
