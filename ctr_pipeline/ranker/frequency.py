"""How frequent an id is, as a number, inside the graph: rows of a vocabulary are in order of falling count."""

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import FIRST_VOCABULARY_ROW, MISSING_ROW, UNKNOWN_ROW, Layout
from ctr_pipeline.ranker.numeric import LIMIT

RANK_0 = FIRST_VOCABULARY_ROW - 1
"""What is taken from a row of the vocabulary for its rank, which is 1 for the most frequent value."""


class FrequencyEncoder(nn.Module):
    """The standardised log(rank) of the values of some id columns; 0, the mean, where a value is missing.

    By rank and not by count, because counts grow with the log, and because by Zipf's law the logarithms of both are close
    to a line. An unknown or rare value has the rank after the last of the vocabulary.

    Args:
        layout: The packed layout; each of its ids with a ``frequency`` gives a number.
    """

    places: Tensor
    unknown: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        wanted = [
            (column, column.frequency, place.start)
            for column, place in zip(layout.ids, layout.id_places, strict=True)
            if column.frequency is not None
        ]
        self.width = len(wanted)
        # Derived from the layout, so none is part of the stored state.
        for name, values, dtype in (
            ("places", [start for _, _, start in wanted], torch.int64),
            ("unknown", [column.rows - RANK_0 for column, _, _ in wanted], torch.int64),
            ("mean", [frequency.mean for _, frequency, _ in wanted], torch.float32),
            ("std", [frequency.std for _, frequency, _ in wanted], torch.float32),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, width] from vocabulary rows [B, F]."""
        rows = torch.index_select(ids, 1, self.places).long()
        ranks = torch.where(rows == UNKNOWN_ROW, self.unknown, (rows - RANK_0).clamp(min=1))
        standardised = (torch.log(ranks.to(self.mean.dtype)) - self.mean) / self.std
        return torch.where(rows == MISSING_ROW, 0.0, torch.clamp(standardised, -LIMIT, LIMIT))
