"""The ranker: transforms, embeddings, a multi-layer perceptron, interactions, a wide part, and one head a task."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker.embeddings import Embeddings, FusedTable
from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.heads import chain_logits
from ctr_pipeline.ranker.interactions import build_interaction, out_width
from ctr_pipeline.ranker.numeric import NumericEncoder
from ctr_pipeline.ranker.position import PositionEffect, build_position_effect
from ctr_pipeline.ranker.shapes import InputShape, RankerInputs, check_shape, group_by_width
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.position import AdditivePosition, Examination


class WidePart(nn.Module):
    """A linear model over all inputs: a weight for each vocabulary row, task and number (Cheng et al., DLRS 2016).

    Args:
        layout: The packed layout.
        numeric_width: Width of the encoded numbers.
    """

    def __init__(self, layout: Layout, numeric_width: int) -> None:
        super().__init__()
        tasks = len(layout.tasks)
        self.rows = FusedTable(layout.ids, range(len(layout.ids)), tasks, 0.0) if layout.ids else None
        self.numbers = nn.Linear(numeric_width, tasks, bias=False) if numeric_width else None
        if self.numbers is not None:
            nn.init.zeros_(self.numbers.weight)

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
    :meth:`encode` (float32), :meth:`hidden` (any precision), :meth:`score` (float32).

    Args:
        layout: The packed layout.
        model: The spec's model section.

    Raises:
        RankerError: The layout has no columns or unusable statistics, or does not suit an interaction.
    """

    def __init__(self, layout: Layout, model: Model) -> None:
        super().__init__()
        self.tasks = layout.tasks
        self.parents = layout.parents
        self.chained = model.heads == "chain"
        self.columns = (len(layout.numeric), len(layout.id_columns))
        self.numeric = NumericEncoder(layout.numeric)
        self.embeddings = Embeddings(layout.ids, model.embedding_dropout)
        self.wide = WidePart(layout, self.numeric.width) if model.wide else None
        self.shape = InputShape(self.numeric.width, group_by_width(layout.ids))
        widths = [self.shape.flat_width, *model.hidden]
        if widths[0] == 0:
            raise RankerError("the layout has neither numeric nor id columns: declare at least one feature")
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(model.dropout)]
        self.tower = nn.Sequential(*layers)
        self.interactions = nn.ModuleDict(
            {
                f"{section.kind}_{place}": build_interaction(section, self.shape)
                for place, section in enumerate(model.interactions)
            }
        )
        self.out_widths: dict[str, int] = {name: out_width(module) for name, module in self.interactions.items()}
        section = model.position or AdditivePosition()
        self.position: PositionEffect | None = None
        if isinstance(section, AdditivePosition | Examination) and (layout.positions or model.position is not None):
            # Along a funnel the position decides on its first steps alone.
            acted_on = [t for t, parent in enumerate(layout.parents) if parent < 0 or not self.chained]
            self.position = build_position_effect(layout, section, acted_on)
        self.head = nn.Linear(widths[-1] + sum(self.out_widths.values()), len(layout.tasks))
        with torch.no_grad():
            # So an input that says "missing", where no training row said so, has no influence when one does later.
            first = self.tower[0] if model.hidden else self.head
            assert isinstance(first, nn.Linear)
            first.weight[:, self.numeric.flags] = 0.0

    def encode(self, numeric: Tensor, ids: Tensor, position: Tensor | None = None) -> RankerInputs:
        """What the modules read, from raw numbers [B, D], vocabulary rows [B, F] and, where known, positions [B].

        Raises:
            RankerError: the batch does not have the layout's columns.
        """
        check_shape("numbers of the batch", numeric, self.columns[0])
        check_shape("ids of the batch", ids, self.columns[1])
        numbers = self.numeric(numeric)
        fields = self.embeddings(ids)
        flat = torch.cat([numbers, fields.flat.to(numbers.dtype)], dim=1)
        wide = 0.0 if self.wide is None else self.wide(numbers, ids)
        return RankerInputs(numbers, fields.groups, flat, wide, ids, position)

    def hidden(self, inputs: RankerInputs) -> Tensor:
        """[B, H] what the heads read: the tower's output, then the interactions' in the order of the spec.

        Raises:
            RankerError: the output of an interaction is not [B, out_width].
        """
        parts = [self.tower(inputs.flat)]
        rows = inputs.flat.shape[0]
        for name, interaction in self.interactions.items():
            output = interaction(inputs.numbers, inputs.fields)
            check_shape(f"output of interaction {name}", output, self.out_widths[name], rows=rows)
            parts.append(output)
        # Under autocast one part may be 16 bits wide and another 32: the result then has 32.
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def score(self, hidden: Tensor, inputs: RankerInputs) -> Tensor:
        """Entire-space logits [B, T] from [B, H] of :meth:`hidden`, the wide part's logits and the position."""
        conditional: Tensor = self.head(hidden) + inputs.wide
        if self.position is not None:
            conditional = self.position(conditional, inputs.ids, inputs.position)
        return chain_logits(conditional, self.parents) if self.chained else conditional

    def forward(self, numeric: Tensor, ids: Tensor, position: Tensor | None = None) -> Tensor:
        """Score a batch.

        Args:
            numeric: [B, D] raw numbers, NaN where missing.
            ids: [B, F] vocabulary rows, int32 or int64; 0 is missing, 1 is unknown or rare, -1 after the end of a list.
            position: [B] positions, 1 for the first, 0 = not logged; None where they are unknown, as when scoring.

        Returns:
            [B, T] logits of P(task) on all impressions.

        Raises:
            RankerError: the batch does not have the layout's columns.
        """
        inputs = self.encode(numeric, ids, position)
        return self.score(self.hidden(inputs), inputs)

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
        RankerError: The layout has no columns or unusable statistics, or does not suit an interaction.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Ranker(layout, model)


__all__ = ["Ranker", "RankerError", "build_ranker"]
