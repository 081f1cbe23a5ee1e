"""Features of the spec, read from the columns of the impression log or of a side table."""

from ctr_pipeline.sources import values
from ctr_pipeline.sources.lists import list_feature, vector_feature
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.rows import Schema
from ctr_pipeline.sources.values import Field
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.features import NumericFeature
from ctr_pipeline.spec.source import SideTable


def list_columns(spec: Spec, table: SideTable | None = None) -> dict[str, str | None]:
    """Columns of ``table``, or of the impression log, that hold lists, and what separates their values in texts."""
    lists = spec.features.lists
    read = ((column, feature.source_column) for feature, column in spec.features_of(table))
    return {column: lists[named] for column, named in read if named in lists}


def feature_fields(
    spec: Spec, schema: Schema, where: str, pseudonymiser: Pseudonymiser, table: SideTable | None = None
) -> list[Field]:
    """What each feature of ``table``, or of the impression log, makes of the raw columns.

    Args:
        spec: Declares the features.
        schema: Types of the raw columns.
        where: Names the file in messages.
        pseudonymiser: Hashes values of private columns.
        table: The side table; None for the impression log.

    Raises:
        SourceError: a column's type cannot hold what its feature reads.
    """
    fields = []
    for declared, column in spec.features_of(table):
        if isinstance(declared, NumericFeature):
            number = declared.model_copy(update={"column": column})
            read_number = values.numeric_feature if number.width is None else vector_feature
            fields.append(read_number(number, schema[column], where))
        else:
            category = declared.model_copy(update={"column": column})
            hashed = pseudonymiser if declared.source_column in spec.private_columns else None
            read_category = values.embedded_feature if category.list is None else list_feature
            fields.append(read_category(category, schema[column], where, hashed))
    return fields
