"""History aggregates, vocabularies, statistics, and the layout of the model's inputs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctr_pipeline.features.layout import (
    FIRST_VOCABULARY_ROW,
    MISSING_ROW,
    PADDING,
    UNKNOWN_ROW,
    Encoding,
    EventList,
    Group,
    IdColumn,
    Layout,
    LayoutError,
    NumericColumn,
    Pooled,
)

if TYPE_CHECKING:
    from ctr_pipeline.features.daily_grid import HISTORY_COLUMNS
    from ctr_pipeline.features.drift_detection import REFERENCE_DAYS, SYMPTOMS, Finding, evaluated_days, find_drift
    from ctr_pipeline.features.history import HISTORY_ORDER, history_for_days, history_reach, join_history
    from ctr_pipeline.features.profile import PROFILE_SCHEMA, profile_days, profiled_columns
    from ctr_pipeline.features.vocabulary import (
        VOCABULARY_SCHEMA,
        embedding_rows,
        encode_ids,
        fit_layout,
        gather_lists,
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
    "Encoding",
    "EventList",
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
    "gather_lists",
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

_FROM_TABLES = {
    "Finding": "drift_detection",
    "HISTORY_COLUMNS": "daily_grid",
    "HISTORY_ORDER": "history",
    "PROFILE_SCHEMA": "profile",
    "REFERENCE_DAYS": "drift_detection",
    "SYMPTOMS": "drift_detection",
    "VOCABULARY_SCHEMA": "vocabulary",
    "embedding_rows": "vocabulary",
    "encode_ids": "vocabulary",
    "evaluated_days": "drift_detection",
    "find_drift": "drift_detection",
    "fit_layout": "vocabulary",
    "gather_lists": "vocabulary",
    "history_for_days": "history",
    "history_reach": "history",
    "id_matrix": "vocabulary",
    "join_history": "history",
    "number_columns": "vocabulary",
    "numeric_matrix": "vocabulary",
    "profile_days": "profile",
    "profiled_columns": "profile",
    "signed_log1p": "vocabulary",
}


def __getattr__(name: str) -> Any:
    # The trainer and the scorer need the layout alone: what computes features of tables takes a second to load.
    if name not in _FROM_TABLES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM_TABLES[name]}"), name)
