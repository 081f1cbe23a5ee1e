"""Packed rows back in the clear, where the tables that they were packed from are gone."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.features.layout import FIRST_VOCABULARY_ROW, MISSING_ROW, PADDING, UNKNOWN_ROW, Layout

UNKNOWN_TEXT = "\x00unknown"
"""Stands for a value that the vocabulary of the packed rows did not hold; no vocabulary holds it."""


def decoded_values(
    layout: Layout, vocabulary: pl.DataFrame, numeric: NDArray[np.float32], ids: NDArray[np.int32]
) -> pl.DataFrame:
    """The values that packed rows were made of, as :class:`~ctr_pipeline.attribution.trained_side.ReplayRows` has them.

    Numbers are packed as they are. A category that the vocabulary does not hold stays unknown, and a list ends after its
    places.

    Args:
        layout: Their layout.
        vocabulary: Columns feature, key and row.
        numeric: [N, D].
        ids: [N, F].
    """
    columns = {
        column.name: pl.Series(np.ascontiguousarray(numeric[:, place]), dtype=pl.Float32).fill_nan(None)
        for place, column in enumerate(layout.numeric)
    }
    for id_column, places in zip(layout.ids, layout.id_places, strict=True):
        own = vocabulary.filter(pl.col("feature") == id_column.vocabulary)
        texts = np.full(id_column.rows, UNKNOWN_TEXT, dtype=object)
        texts[own["row"].to_numpy()] = own["key"].to_numpy()
        texts[MISSING_ROW] = None
        assert texts[UNKNOWN_ROW] == UNKNOWN_TEXT, f"no text has a row below {FIRST_VOCABULARY_ROW}"
        if id_column.pooled is None:
            columns[id_column.name] = pl.Series(texts[ids[:, places.start]].tolist(), dtype=pl.String)
            continue
        there = ids[:, places] != PADDING
        lists = pl.DataFrame(
            {
                "row": np.repeat(np.arange(len(ids)), there.sum(axis=1)),
                "text": pl.Series(texts[ids[:, places][there]].tolist(), dtype=pl.String),
            }
        )
        gathered = lists.group_by("row", maintain_order=True).agg("text")
        whole = pl.DataFrame({"row": np.arange(len(ids))}).join(gathered, on="row", how="left", maintain_order="left")
        values = whole["text"].fill_null(pl.lit([], dtype=pl.List(pl.String)))
        columns[id_column.name] = values
    return pl.DataFrame(columns)
