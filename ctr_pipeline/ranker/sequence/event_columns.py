"""The modules of a spec's ``model.sequences`` inside the ranker, and the columns that they read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import EventList, Layout
from ctr_pipeline.ranker.embeddings import Embeddings, FusedTable
from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.initialisation import part_seed
from ctr_pipeline.ranker.interactions import out_width
from ctr_pipeline.ranker.sequence.event_encoding import OLDEST
from ctr_pipeline.ranker.sequence.sequence_module import build_sequence
from ctr_pipeline.ranker.shapes import Events, EventShape, check_shape, group_by_width
from ctr_pipeline.spec.sequence_modules import SequenceSection


@dataclass(frozen=True, slots=True)
class EventColumns:
    """Where the events of a list and their candidate stand.

    Attributes:
        items: Columns of the items among the ids of all event lists.
        kinds: Columns of the kinds among them; None where all events are of one kind.
        ages: Columns of the ages among the numbers of all event lists.
        table: Name of the fused table with the embeddings of the items.
        start: The item's first row of that table.
        target: The group of embeddings with the candidate's, and its place there.
    """

    items: slice
    kinds: slice | None
    ages: slice
    table: str
    start: int
    target: tuple[int, int]


class Sequences(nn.Module):
    """The modules of ``model.sequences`` and the columns that they read.

    Args:
        layout: The packed layout, with event lists.
        embeddings: The ranker's, made with :func:`read_again`.
        sections: The spec's sections.
        seed: Decides the initial weights.

    Raises:
        RankerError: a module reads a list that the layout does not have, or does not suit it.
    """

    def __init__(self, layout: Layout, embeddings: Embeddings, sections: Sequence[SequenceSection], seed: int) -> None:
        super().__init__()
        ids = {column.name: column for column in layout.ids}
        self._columns: list[EventColumns] = []
        self.lists: tuple[str, ...] = ()
        """Name of the list that each module reads."""
        modules: dict[str, nn.Module] = {}
        for place, section in enumerate(sections):
            found = _list_of(layout, section)
            self._columns.append(_columns_of(layout, found, embeddings))
            self.lists += (found.name,)
            name = f"{section.kind}_{place}"
            kinds = 1 if found.event is None else ids[found.event].rows
            # Modules draw their own weights, from torch's generator.
            torch.manual_seed(part_seed(seed, name))
            modules[name] = build_sequence(section, EventShape(found.length, ids[found.name].dim, kinds))
        self.modules_by_kind = nn.ModuleDict(modules)
        self.out_width = sum(out_width(module) for module in modules.values())

    def read(self, numeric: Tensor, ids: Tensor, embeddings: Embeddings) -> tuple[Events, ...]:
        """The events that each module reads.

        Args:
            numeric: [G, …] the ages of all event lists, side by side.
            ids: [G, …] their ids.
            embeddings: The ranker's.
        """
        found = []
        for columns in self._columns:
            table = embeddings.tables[columns.table]
            assert isinstance(table, FusedTable)
            listed = ids[:, columns.items]
            there = listed >= 0
            kinds = None if columns.kinds is None else ids[:, columns.kinds].long().clamp(min=0)
            old = torch.nan_to_num(numeric[:, columns.ages], nan=OLDEST, posinf=OLDEST).clamp(0.0, OLDEST)
            found.append(Events(table.look_up(listed, columns.start), kinds, torch.where(there, old, 0.0), there))
        return tuple(found)

    def forward(self, events: Sequence[Events], fields: Sequence[Tensor]) -> list[Tensor]:
        """[B, out_width] of each module, from the events of G keys and the embeddings [B, F, d] of B = G·C rows.

        Raises:
            RankerError: the output of a module is of another width.
        """
        outputs = []
        for (name, module), own, columns in zip(self.modules_by_kind.items(), events, self._columns, strict=True):
            group, field = columns.target
            target, keys = fields[group][:, field], own.items.shape[0]
            # A step whose batch is at fault goes on without rows.
            candidates = target.shape[0] // keys if keys else 1
            output = module(own, target.reshape(keys, -1 if keys else 1, target.shape[1]))
            check_shape(f"output of sequence {name}", output, candidates, out_width(module), rows=keys)
            outputs.append(output.flatten(0, 1))
        return outputs


def read_again(layout: Layout) -> dict[int, str]:
    """The columns of the id array that event lists read, each with the feature whose embeddings it shares."""
    places = {column.name: place for column, place in zip(layout.ids, layout.id_places, strict=True)}
    return {
        place: one.item for one in layout.event_lists for place in range(places[one.name].start, places[one.name].stop)
    }


def _columns_of(layout: Layout, found: EventList, embeddings: Embeddings) -> EventColumns:
    before = layout.without_event_lists()
    places = {column.name: place for column, place in zip(layout.ids, layout.id_places, strict=True)}

    def behind(columns: slice, at: int) -> slice:
        return slice(columns.start - at, columns.stop - at)

    groups = group_by_width(before.ids)
    group = next(place for place, one in enumerate(groups) if found.item in one.columns)
    table = f"width_{groups[group].width}"
    fused, first = embeddings.tables[table], len(before.id_columns)
    assert isinstance(fused, FusedTable)
    return EventColumns(
        items=behind(places[found.name], first),
        kinds=None if found.event is None else behind(places[found.event], first),
        ages=behind(layout.number_places[found.age], len(before.numeric)),
        table=table,
        start=fused.read_again[places[found.name].start],
        target=(group, groups[group].columns.index(found.item)),
    )


def _list_of(layout: Layout, section: SequenceSection) -> EventList:
    known = {one.name: one for one in layout.event_lists}
    name = section.feature or (next(iter(known)) if len(known) == 1 else None)
    if name not in known:
        raise RankerError(
            f"sequence {section.kind!r} reads {section.feature or 'a list of events'}; the dataset has "
            f"{', '.join(known) or 'none'}: set its `feature` to one of `features.history` with `events`, and pack the "
            "dataset again"
        )
    return known[name]
