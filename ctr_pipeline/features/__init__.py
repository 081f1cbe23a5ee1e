"""History aggregates, vocabularies, statistics, and the layout of the model's inputs."""

from ctr_pipeline.features.layout import (
    FIRST_VOCABULARY_ROW,
    MISSING_ROW,
    UNKNOWN_ROW,
    IdColumn,
    Layout,
    LayoutError,
    NumericColumn,
)

__all__ = [
    "FIRST_VOCABULARY_ROW",
    "MISSING_ROW",
    "UNKNOWN_ROW",
    "IdColumn",
    "Layout",
    "LayoutError",
    "NumericColumn",
]
