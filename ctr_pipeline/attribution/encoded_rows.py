"""What the modules of a ranker read of rows, as numbers that may be moved, and the feature that each number is of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker import Ranker
from ctr_pipeline.ranker.embeddings import FusedTable
from ctr_pipeline.ranker.shapes import RankerInputs


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """B rows behind the transforms and the embedding tables.

    Attributes:
        numbers: [B, D] encoded numbers.
        fields: The embeddings, one [B, F, d] for each width.
        rows: [B, F, T] weights of the linear part's vocabulary rows; of no feature without a linear part.
        pairs: [B, P, T] its weights of pairs of features.
        events: [B, L, d] embeddings of the events that each module of ``model.sequences`` reads.
    """

    numbers: Tensor
    fields: tuple[Tensor, ...]
    rows: Tensor
    pairs: Tensor
    events: tuple[Tensor, ...]

    @classmethod
    def of(cls, ranker: Ranker, inputs: RankerInputs) -> "EncodedRows":
        """Those of rows that ``ranker`` has encoded, each with its own events."""
        batch, tasks, wide = len(inputs.ids), len(ranker.tasks), ranker.wide
        nothing = inputs.numbers.new_zeros((batch, 0, tasks))
        rows = nothing if wide is None or wide.rows is None else wide.rows(inputs.ids)
        pairs = nothing if wide is None or wide.pairs is None else wide.pairs.of_each(inputs.ids)
        return cls(inputs.numbers, inputs.fields, rows, pairs, tuple(events.items for events in inputs.events))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All tensors in one order."""
        return (self.numbers, *self.fields, self.rows, self.pairs, *self.events)

    def with_parts(self, parts: Sequence[Tensor]) -> "EncodedRows":
        """The same with other tensors, in the order of :attr:`parts`."""
        end = 1 + len(self.fields)
        return EncodedRows(parts[0], tuple(parts[1:end]), parts[end], parts[end + 1], tuple(parts[end + 2 :]))

    def logits(self, ranker: Ranker, inputs: RankerInputs) -> Tensor:
        """[B, T] what ``ranker`` makes of them; ``inputs`` are the rows that they are of."""
        embedded = [group.flatten(1) for group in self.fields]
        wide: Tensor | float = 0.0
        if ranker.wide is not None:
            wide = self.rows.sum(dim=1) + self.pairs.sum(dim=1)
            if ranker.wide.numbers is not None:
                wide = wide + ranker.wide.numbers(self.numbers)
        moved = replace(
            inputs,
            numbers=self.numbers,
            fields=self.fields,
            embedded=torch.cat(embedded, dim=1) if embedded else inputs.embedded,
            wide=wide,
            events=tuple(replace(own, items=items) for own, items in zip(inputs.events, self.events, strict=True)),
        )
        return ranker.score(ranker.hidden(moved), moved)


def reference_of(encoded: EncodedRows) -> EncodedRows:
    """The mean row [1, …] of ``encoded``; its events are zeros, as of a list without events."""
    count = 1 + len(encoded.fields) + 2
    means = [part.mean(dim=0, keepdim=True) for part in encoded.parts[:count]]
    return encoded.with_parts([*means, *(torch.zeros_like(part[:1]) for part in encoded.parts[count:])])


def feature_names(ranker: Ranker, layout: Layout) -> tuple[tuple[str, ...], ...]:
    """The feature of each column of each of :attr:`EncodedRows.parts`, a pair's with ``×`` between both.

    Of numbers, those of the D columns; of embeddings and weights, those of the features of each group; of events, the list
    for all of its places.
    """
    before = layout.without_event_lists()
    numbers = [before.numeric[owner].feature for owner in ranker.numeric.owners]
    numbers += [column.name for column in before.ids if column.frequency is not None]
    fields = []
    for table in ranker.embeddings.tables.values():
        assert isinstance(table, FusedTable)
        fields.append(tuple(before.ids[place].name for place, _ in table.features))
    wide = ranker.wide
    rows = () if wide is None or wide.rows is None else tuple(before.ids[place].name for place, _ in wide.rows.features)
    pairs = () if wide is None or wide.pairs is None else wide.pairs.names
    lists = () if ranker.sequences is None else ranker.sequences.lists
    return (tuple(numbers), *fields, rows, pairs, *((name,) for name in lists))
