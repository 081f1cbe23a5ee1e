"""The ranker: transforms, embeddings, a multi-layer perceptron, interactions, a wide part, and one head a task."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker.branches import (
    BranchTowers,
    FusedOutputs,
    branch_names,
    branch_parts,
    named_interactions,
)
from ctr_pipeline.ranker.embeddings import Embeddings, FusedTable, sum_of_features
from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.frequency import FrequencyEncoder
from ctr_pipeline.ranker.heads import HeadShape, build_head
from ctr_pipeline.ranker.heads.chain import chain_logits
from ctr_pipeline.ranker.heads.head_layers import TaskOutputs
from ctr_pipeline.ranker.initialisation import (
    initialise_head,
    initialise_hidden,
    initialise_table,
    part_seed,
    without_influence,
)
from ctr_pipeline.ranker.interactions import build_interaction, out_width, with_dropout
from ctr_pipeline.ranker.numeric import NumericEncoder
from ctr_pipeline.ranker.pairs import PairWeights
from ctr_pipeline.ranker.position import PositionEffect, build_position_effect
from ctr_pipeline.ranker.sequence.event_columns import Sequences, read_again
from ctr_pipeline.ranker.shapes import InputShape, RankerInputs, check_shape, group_by_width
from ctr_pipeline.ranker.tower import Tower
from ctr_pipeline.spec.branches import Fusion
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.position import AdditivePosition, Examination


class WidePart(nn.Module):
    """A linear model over all inputs: a weight for each vocabulary row, task and number (Cheng et al., DLRS 2016).

    Args:
        layout: The packed layout.
        numeric_width: Width of the encoded numbers.
        pairs: Names of two features each, whose combinations have weights too.
    """

    def __init__(self, layout: Layout, numeric_width: int, pairs: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__()
        tasks = len(layout.tasks)
        # What a key did often and what is shown need different weights, though they share an embedding.
        own = [replace(column, table=None) for column in layout.ids]
        self.rows = FusedTable(own, range(len(own)), tasks) if own else None
        self.numbers = nn.Linear(numeric_width, tasks, bias=False) if numeric_width else None
        if self.numbers is not None:
            nn.init.zeros_(self.numbers.weight)
        self.pairs = PairWeights(layout, pairs) if pairs else None

    def forward(self, encoded: Tensor, ids: Tensor, forgotten: Tensor | None = None) -> Tensor | float:
        """[B, T] contribution to the logits from encoded numbers [B, width] and rows [B, F].

        ``forgotten`` [B, features] are the ids that are treated as new ones, where the feature has a cold start.
        """
        total: Tensor | float = 0.0
        if self.rows is not None:
            total = total + sum_of_features(self.rows(ids, forgotten))
        if self.numbers is not None:
            total = total + self.numbers(encoded)
        if self.pairs is not None:
            total = total + self.pairs(ids)
        return total


class Ranker(nn.Module):
    """Scores impressions. Build it with :func:`build_ranker`.

    The three stages are methods of their own so that a trainer can run the middle one in lower precision:
    :meth:`encode` (float32), :meth:`hidden` (any precision), :meth:`score` (float32).

    Args:
        layout: The packed layout.
        model: The spec's model section.
        seed: Decides the initial weights.

    Raises:
        RankerError: The layout has no columns or unusable statistics, or does not suit an interaction.
    """

    def __init__(self, layout: Layout, model: Model, seed: int) -> None:
        super().__init__()
        self.tasks = layout.tasks
        self.parents = layout.parents
        self.chained = model.heads == "chain"
        self.columns = (len(layout.numeric), len(layout.id_columns))
        whole, layout = layout, layout.without_event_lists()
        self.own_columns = (len(layout.numeric), len(layout.id_columns))
        again = read_again(whole) if model.sequences else None
        self.numeric = NumericEncoder(layout.numeric)
        # None, not a module of no width: the exported graph of a model without it stays what it was.
        self.frequency = FrequencyEncoder(layout) if any(column.frequency for column in layout.ids) else None
        self.embeddings = Embeddings(layout.ids, model.embedding_dropout or 0.0, again)
        numbers = self.numeric.width + (0 if self.frequency is None else self.frequency.width)
        self.wide = WidePart(layout, numbers, model.pairs) if model.wide else None
        flags = self.numeric.flags
        self.shape = InputShape(numbers, group_by_width(layout.ids), (flags.start, flags.stop))
        if not self.shape.numbers and not self.shape.groups:
            raise RankerError("the layout has neither numeric nor id columns: declare at least one feature")
        towers = BranchTowers if model.branches else Tower
        self.tower: Tower | BranchTowers = towers(self.shape.numbers, self.shape.embedded_width, model)
        self.branches = branch_names(model.branches)
        interactions: dict[str, nn.Module] = {}
        for name, section in named_interactions(model):
            # Interactions draw their own weights, from torch's generator.
            torch.manual_seed(part_seed(seed, name))
            interactions[name] = build_interaction(with_dropout(section, model.dropout), self.shape)
        self.interactions = nn.ModuleDict(interactions)
        self.out_widths: dict[str, int] = {name: out_width(module) for name, module in interactions.items()}
        self.sequences = Sequences(whole, self.embeddings, model.sequences, seed) if model.sequences else None
        effect = model.position or AdditivePosition()
        self.position: PositionEffect | None = None
        if isinstance(effect, AdditivePosition | Examination) and (layout.positions or model.position is not None):
            # Along a funnel the position decides on its first steps alone.
            acted_on = [t for t, parent in enumerate(layout.parents) if parent < 0 or not self.chained]
            self.position = build_position_effect(layout, effect, acted_on)
        width = self.tower.out_width + sum(self.out_widths.values())
        width += 0 if self.sequences is None else self.sequences.out_width
        self.stopped: tuple[bool, ...] = ()
        # None, not a module that hands on what it reads: a model whose tasks share all hidden units stays what it was.
        self.multi_task = self._build_heads(width, layout, model, seed)
        self.head: nn.Linear
        if self.branches:
            widths, owners = branch_parts(
                model,
                self.tower,
                list(self.out_widths.values()),
                width - self.tower.out_width - sum(self.out_widths.values()),
            )
            tasks, fusion = len(layout.tasks), model.fusion or Fusion()
            self.head = FusedOutputs(widths, owners, len(self.branches), tasks, fusion)
        elif self.multi_task is None:
            self.head = nn.Linear(width, len(layout.tasks))
        else:
            self.head = TaskOutputs(self.multi_task.out_width, len(layout.tasks))
        self._initialise(layout, seed)

    def _build_heads(self, width: int, layout: Layout, model: Model, seed: int) -> Any:
        """The module of ``model.multi_task``; None where every task reads the same units."""
        section = model.multi_task
        if section is None or (
            section.kind == "shared_bottom" and section.gate_on is None and not section.stop_gradient
        ):
            return None
        stopped = tuple(task in section.stop_gradient for task in layout.tasks)
        self.stopped = stopped if any(stopped) else ()
        torch.manual_seed(part_seed(seed, f"heads {section.kind}"))
        return build_head(section, HeadShape(width, layout.tasks, layout.parents, stopped, model))

    def _initialise(self, layout: Layout, seed: int) -> None:
        for table in self.embeddings.tables.values():
            assert isinstance(table, FusedTable)
            initialise_table(table, layout.ids, seed)
        for name, linear in self.tower.named_linears:
            initialise_hidden(linear, seed, name)
        initialise_head(self.head, seed)
        # So an input that says "missing", where no training row said so, has no influence when a served row does.
        first = self.tower.firsts or (self.multi_task.readers if self.multi_task is not None else []) or [self.head]
        # The heads of branches read the inputs through modules alone, which leave those columns out.
        for linear in () if self.branches and not self.tower.firsts else first:
            without_influence(linear.weight, self.numeric.flags)

    def encode(self, numeric: Tensor, ids: Tensor, position: Tensor | None = None) -> RankerInputs:
        """What the modules read, from raw numbers [B, D], vocabulary rows [B, F] and, where known, positions [B].

        Raises:
            RankerError: the batch does not have the layout's columns.
        """
        check_shape("numbers of the batch", numeric, self.columns[0])
        check_shape("ids of the batch", ids, self.columns[1])
        own, own_ids = self.own_columns
        if self.sequences is None:
            return self.encode_with(numeric[:, :own], ids[:, :own_ids], None, position)
        past = numeric[:, own:], ids[:, own_ids:]
        return self.encode_with(numeric[:, :own], ids[:, :own_ids], past, position)

    def encode_with(
        self, numeric: Tensor, ids: Tensor, past: tuple[Tensor, Tensor] | None, position: Tensor | None = None
    ) -> RankerInputs:
        """As :meth:`encode`, with the columns of event lists apart: B rows may be of fewer keys, whose events are read once.

        Args:
            numeric: [B, …] numbers without the ages of events.
            ids: [B, …] rows without those of events.
            past: Ages [G, …] and rows [G, …] of the event lists of G keys; the first B/G rows are those of the first key,
                and so on. None where no module reads them.
            position: [B] positions.
        """
        events = () if self.sequences is None or past is None else self.sequences.read(*past, self.embeddings)
        numbers = self.numeric(numeric)
        if self.frequency is not None:
            numbers = torch.cat([numbers, self.frequency(ids)], dim=1)
        fields = self.embeddings(ids)
        wide = 0.0 if self.wide is None else self.wide(numbers, ids, fields.forgotten)
        return RankerInputs(numbers, fields.groups, fields.flat.to(numbers.dtype), wide, ids, position, events)

    def hidden(self, inputs: RankerInputs) -> Tensor:
        """[B, H] what the heads read: the tower's output, the interactions' in the order of the spec, the sequences'.

        With ``model.multi_task`` [B, T, K], what each task's last layer reads of it.

        Raises:
            RankerError: the output of an interaction or of a sequence is not [B, out_width].
        """
        # Of branches, none may have hidden layers; without branches the inputs themselves pass where there are none.
        inner = (inputs.numbers, inputs.embedded) if inputs.split is None else inputs.split
        parts = [self.tower(*inner)] if self.tower.out_width else []
        rows = inputs.numbers.shape[0]
        for name, interaction in self.interactions.items():
            output = interaction(inputs.numbers, inputs.fields)
            check_shape(f"output of interaction {name}", output, self.out_widths[name], rows=rows)
            parts.append(output)
        if self.sequences is not None:
            parts += self.sequences(inputs.events, inputs.fields)
        # Under autocast one part may be 16 bits wide and another 32: the result then has 32.
        shared = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return shared if self.multi_task is None else self.multi_task(shared)

    def score(self, hidden: Tensor, inputs: RankerInputs) -> Tensor:
        """Entire-space logits [B, T] from :meth:`hidden`, the wide part's logits and the position."""
        return self._entire_space(self.head(hidden), inputs)

    def branch_logits(self, hidden: Tensor, inputs: RankerInputs) -> list[Tensor]:
        """Entire-space logits [B, T] of each branch by itself; the wide part and the position are those of all of them."""
        if not isinstance(self.head, FusedOutputs):
            return []
        return [self._entire_space(own, inputs) for own in self.head.own(hidden).unbind(dim=1)]

    def _entire_space(self, of_heads: Tensor, inputs: RankerInputs) -> Tensor:
        conditional: Tensor = of_heads + inputs.wide
        if self.position is not None:
            conditional = self.position(conditional, inputs.ids, inputs.position)
        return chain_logits(conditional, self.parents, self.stopped) if self.chained else conditional

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

    def learn_counts(self, ids: NDArray[np.int32]) -> None:
        """Count the ids of the training rows [N, F], for the features with a cold start; call before the first step."""
        for module in self._tables():
            module.learn_counts(ids)

    def follow_embeddings(self) -> None:
        """Let the means from which new ids begin follow the embeddings that they are means of."""
        for module in self._tables():
            module.follow()

    def _tables(self) -> Iterator[FusedTable]:
        return (module for module in self.modules() if isinstance(module, FusedTable))


def build_ranker(layout: Layout, model: Model, seed: int) -> Ranker:
    """A new ranker with random weights that depend on ``seed`` alone; the global generator is left as it was.

    Raises:
        RankerError: The layout has no columns or unusable statistics, or does not suit an interaction.
    """
    with torch.random.fork_rng(devices=[]):
        return Ranker(layout, model, seed)


__all__ = ["Ranker", "RankerError", "build_ranker"]
