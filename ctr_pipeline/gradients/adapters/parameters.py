"""Which feature a parameter belongs to."""

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker.embeddings import FusedTable
from ctr_pipeline.ranker.model import Ranker
from ctr_pipeline.ranker.pairs import PairWeights


def feature_of(model: Ranker, layout: Layout, parameter: str, row: int) -> tuple[str, int] | None:
    """The feature of an embedding, and its row in the feature's vocabulary; None for a parameter of no feature.

    Args:
        model: The ranker.
        layout: Its packed layout.
        parameter: Name of the parameter in the ranker.
        row: First index into the parameter.
    """
    owner = (
        model.get_submodule(parameter.removesuffix(".table.weight")) if parameter.endswith(".table.weight") else None
    )
    if isinstance(owner, PairWeights):
        return owner.locate(row)
    if not isinstance(owner, FusedTable):
        return None
    column, own_row = owner.locate(row)
    return layout.ids[column].name, own_row
