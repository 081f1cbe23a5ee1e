"""The ranker: transforms, embeddings, a multi-layer perceptron, a wide part, and one head a task."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker.embeddings import Embeddings, FusedTable
from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.heads import chain_logits
from ctr_pipeline.ranker.numeric import NumericEncoder
from ctr_pipeline.spec.model import Model


class WidePart(nn.Module):
    """A linear model over all inputs: a weight for each vocabulary row, task and number (Cheng et al., DLRS 2016).

    Args:
        layout: The packed layout.
        numeric_width: Width of the encoded numbers.
    """

    def __init__(self, layout: Layout, numeric_width: int) -> None:
        super().__init__()
        tasks = len(layout.tasks)
        heights = [column.rows for column in layout.ids]
        self.rows = FusedTable(heights, range(len(heights)), tasks, 0.0) if heights else None
        self.numbers = nn.Linear(numeric_width, tasks, bias=False) if numeric_width else None

    def forward(self, encoded: Tensor, ids: Tensor) -> Tensor | float:
        """[B, T] contribution to the logits from encoded numbers [B, width] and rows [B, F]."""
        total: Tensor | float = 0.0
        if self.rows is not None:
            total = total + self.rows(ids).sum(dim=1)
        if self.numbers is not None:
            total = total + self.numbers(encoded)
        return total


class Ranker(nn.Module):
    """Scores impressions. Build it with :func:`build_ranker`.

    The three stages are methods of their own so that a trainer can run the middle one in lower precision:
    :meth:`encode` (float32), :meth:`tower` (any precision), :meth:`score` (float32).
    """

    def __init__(self, layout: Layout, model: Model) -> None:
        super().__init__()
        self.tasks = layout.tasks
        self.parents = layout.parents
        self.chained = model.heads == "chain"
        self.numeric = NumericEncoder(layout.numeric)
        self.embeddings = Embeddings(layout.ids, model.embedding_dropout)
        self.wide = WidePart(layout, self.numeric.width) if model.wide else None
        widths = [self.numeric.width + self.embeddings.width, *model.hidden]
        if widths[0] == 0:
            raise RankerError("the layout has neither numeric nor id columns: declare at least one feature")
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(model.dropout)]
        self.tower = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], len(layout.tasks))

    def encode(self, numeric: Tensor, ids: Tensor) -> tuple[Tensor, Tensor | float]:
        """The tower's input [B, W] and the wide part's logits [B, T] (0 without a wide part)."""
        encoded = self.numeric(numeric)
        inputs = torch.cat([encoded, self.embeddings(ids).to(encoded.dtype)], dim=1)
        return inputs, 0.0 if self.wide is None else self.wide(encoded, ids)

    def score(self, hidden: Tensor, wide: Tensor | float) -> Tensor:
        """Entire-space logits [B, T] from the tower's output [B, H] and the wide logits."""
        conditional: Tensor = self.head(hidden) + wide
        return chain_logits(conditional, self.parents) if self.chained else conditional

    def forward(self, numeric: Tensor, ids: Tensor) -> Tensor:
        """Score a batch.

        Args:
            numeric: [B, D] raw numbers, NaN where missing.
            ids: [B, F] vocabulary rows, int32 or int64; 0 is missing, 1 is unknown or rare.

        Returns:
            [B, T] logits of P(task) on all impressions.
        """
        inputs, wide = self.encode(numeric, ids)
        return self.score(self.tower(inputs), wide)

    def start_from_rates(self, rates: Sequence[float]) -> None:
        """Set the heads' biases so that an untrained model predicts each task's overall rate.

        Args:
            rates: Share of positives of each task among all impressions; values outside (0, 1) leave a bias at 0.
        """
        with torch.no_grad():
            for task, parent in enumerate(self.parents):
                base = rates[parent] if self.chained and parent >= 0 else 1.0
                share = rates[task] / base if base > 0 else 0.0
                bias = torch.logit(torch.tensor(share, dtype=torch.float64)) if 0 < share < 1 else torch.tensor(0.0)
                self.head.bias[task] = float(bias)


def build_ranker(layout: Layout, model: Model, seed: int) -> Ranker:
    """A new ranker with random weights that depend on ``seed`` alone; the global generator is left as it was.

    Raises:
        RankerError: The layout has no columns or unusable statistics.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Ranker(layout, model)


__all__ = ["Ranker", "RankerError", "build_ranker"]
