"""Encodes requests for a ranker: what all candidates of a request share is transformed and embedded once."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import MISSING_ROW, IdColumn, Layout
from ctr_pipeline.features.request_columns import RequestColumns
from ctr_pipeline.ranker.embeddings import FusedTable, TableFields, sum_of_features
from ctr_pipeline.ranker.model import Ranker
from ctr_pipeline.ranker.numeric import NumericEncoder
from ctr_pipeline.ranker.shapes import RankerInputs
from ctr_pipeline.ranker.split_columns import RequestRows, SplitColumns, linear_terms


class SharedInputs(nn.Module):
    """Which inputs of a ranker are shared, and encoders for them and for the others. It has no weights of its own.

    Numbers, embeddings, the linear part and the first hidden layer compute what is shared once a request, and events are read
    once. From there on, and in interactions, rows are whole. Where nothing but events is shared, rows are whole from the
    start.

    Args:
        ranker: The ranker; it stays as it is.
        layout: The layout that it was built with, and the features in which candidates differ.
    """

    def __init__(self, ranker: Ranker, layout: Layout) -> None:
        super().__init__()
        columns, before = RequestColumns.of(layout), layout.without_event_lists()
        numbers, ids = len(before.numeric), len(before.id_columns)
        shared_numbers = [place for place in columns.shared_numbers if place < numbers]
        self._shared_ids = [place for place in columns.shared_ids if place < ids]
        self._own_ids = list(columns.own_ids)
        self.shared = len(shared_numbers), len(self._shared_ids)
        self._hold_split("ids", self._shared_ids, self._own_ids)
        encoders = [
            NumericEncoder([before.numeric[place] for place in places]) if places else None
            for places in (shared_numbers, columns.own_numbers)
        ]
        self.shared_encoder, self.own_encoder = encoders
        outputs = [
            [] if encoder is None else _places_in(ranker.numeric, encoder, places)
            for encoder, places in zip(encoders, (shared_numbers, columns.own_numbers), strict=True)
        ]
        # The frequencies of ids stand behind all other numbers.
        frequencies = range(ranker.numeric.width, ranker.shape.numbers)
        self._hold_split("numbers", outputs[0], [*outputs[1], *frequencies])
        differing = set(layout.candidate_features)
        once = _shared_fields(before.ids, differing)
        # A shared feature that is embedded with a candidate's needs whole rows; others their own columns.
        self._borrows = any(
            place not in once and column.name not in differing for place, column in enumerate(before.ids) if differing
        )
        self._tables: list[tuple[TableFields, TableFields]] = []
        flat: tuple[list[int], list[int]] = [], []
        first = 0
        for at, table in enumerate(_tables(ranker)):
            split = self._split_fields(table, once)
            self._tables.append(split)
            self._hold_split(f"fields_{at}", *(part.places for part in split))
            for side, part in zip(flat, split, strict=True):
                side.extend(
                    first + place * table.width + offset for place in part.places for offset in range(table.width)
                )
            first += len(table.features) * table.width
        self._hold_split("embedded", *flat)
        wide = None if ranker.wide is None else ranker.wide.rows
        self._wide = None if wide is None else self._split_fields(wide, once)
        pairs = None if ranker.wide is None else ranker.wide.pairs
        for name in ("firsts", "seconds"):
            chosen = [] if pairs is None else pairs.get_buffer(name).tolist()
            shared, own = self._shared_ids, self._own_ids
            found = [at for at, place in enumerate(chosen) if place in shared]
            others = [at for at, place in enumerate(chosen) if place not in shared]
            self._hold_split(f"{name}_pairs", found, others)
            self._hold(f"{name}_of_shared", [shared.index(chosen[at]) for at in found])
            self._hold(f"{name}_of_own", [own.index(chosen[at]) for at in others])

    def forward(
        self, ranker: Ranker, shared_numeric: Tensor, shared_ids: Tensor, numeric: Tensor, ids: Tensor
    ) -> RankerInputs:
        """What the modules of ``ranker`` read of G requests with C candidates each, B = G·C rows.

        Args:
            ranker: The ranker that this was made for.
            shared_numeric: [G, …] raw numbers that the candidates share, those of events last.
            shared_ids: [G, …] vocabulary rows that they share, those of events last.
            numeric: [G, C, …] raw numbers of the candidates' own.
            ids: [G, C, …] vocabulary rows of their own.
        """
        rows = RequestRows(numeric.shape[0], numeric.shape[1])
        own_numeric, own_ids = numeric.flatten(0, 1), ids.flatten(0, 1)
        numbers, columns = self.shared
        past = shared_numeric[:, numbers:], shared_ids[:, columns:]
        if not numbers and not columns:
            return ranker.encode_with(own_numeric, own_ids, past)
        shared_numeric, shared_ids = shared_numeric[:, :numbers], shared_ids[:, :columns]
        # Of what is computed here, the exported graph holds what some module reads.
        whole = rows.join(shared_ids, own_ids, self.get_buffer("ids_order"))
        ids_of = (shared_ids, self._padded(shared_ids)), (whole if self._borrows else own_ids, whole)
        encoded = self._numbers(ranker, rows, shared_numeric, own_numeric, whole)
        groups: list[Tensor] = []
        flat: tuple[list[Tensor], list[Tensor]] = [], []
        for at, (table, split) in enumerate(zip(_tables(ranker), self._tables, strict=True)):
            shared, own = (_looked_up(table, fields, *given) for fields, given in zip(split, ids_of, strict=True))
            groups.append(rows.join(shared, own, self.get_buffer(f"fields_{at}_order")))
            flat[0].append(shared.flatten(1))
            flat[1].append(own.flatten(1))
        embedded = self._split("embedded", rows, *(_side_by_side(side, numeric) for side in flat))
        return RankerInputs(
            numbers=encoded.joined(),
            fields=tuple(groups),
            embedded=embedded.joined(),
            wide=self._linear_part(ranker, encoded, ids_of, own_ids),
            ids=whole,
            position=None,
            events=() if ranker.sequences is None else ranker.sequences.read(*past, ranker.embeddings),
            split=(encoded, embedded),
        )

    def _padded(self, shared_ids: Tensor) -> Tensor:
        """[G, F] with as many columns as a whole row has; none that is not shared is looked at."""
        absent = shared_ids.new_full((1, len(self._own_ids)), MISSING_ROW).expand(shared_ids.shape[0], -1)
        return torch.cat([shared_ids, absent], dim=1).index_select(1, self.get_buffer("ids_order"))

    def _numbers(
        self, ranker: Ranker, rows: RequestRows, shared_numeric: Tensor, own_numeric: Tensor, ids: Tensor
    ) -> SplitColumns:
        shared = shared_numeric if self.shared_encoder is None else self.shared_encoder(shared_numeric)
        own = own_numeric if self.own_encoder is None else self.own_encoder(own_numeric)
        if ranker.frequency is not None:
            own = torch.cat([own, ranker.frequency(ids)], dim=1)
        return self._split("numbers", rows, shared, own)

    def _linear_part(
        self, ranker: Ranker, encoded: SplitColumns, ids_of: Sequence[tuple[Tensor, Tensor]], own_ids: Tensor
    ) -> Tensor | float:
        wide = ranker.wide
        if wide is None:
            return 0.0
        terms: tuple[list[Tensor], list[Tensor]] = [], []
        if wide.numbers is not None:
            terms = linear_terms([(encoded, wide.numbers.weight)], None)
        if wide.rows is not None and self._wide is not None:
            for side, fields, given in zip(terms, self._wide, ids_of, strict=True):
                if fields.places:
                    side.append(sum_of_features(_looked_up(wide.rows, fields, *given)))
        if wide.pairs is not None:
            shared_ids = ids_of[0][0]
            first, second = (
                encoded.rows.join(
                    shared_ids.index_select(1, self.get_buffer(f"{name}_of_shared")),
                    own_ids.index_select(1, self.get_buffer(f"{name}_of_own")),
                    self.get_buffer(f"{name}_pairs_order"),
                )
                for name in ("firsts", "seconds")
            )
            terms[1].append(wide.pairs.of(first, second))
        return encoded.rows.total(*terms)

    def _split_fields(self, table: FusedTable, once: set[int]) -> tuple[TableFields, TableFields]:
        """The features of a table that are looked up once a request, and the others."""
        shared = [place for place, (index, _) in enumerate(table.features) if index in once]
        own = [place for place, (index, _) in enumerate(table.features) if index not in once]
        own_columns = range(sum(self.shared[1:]) + len(self._own_ids)) if self._borrows else self._own_ids
        return table.some(shared, self._shared_ids), table.some(own, own_columns)

    def _hold(self, name: str, values: Sequence[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    def _hold_split(self, name: str, shared: Sequence[int], own: Sequence[int]) -> None:
        """Keeps which columns are shared, which are not, and where each column then stands."""
        order = {column: place for place, column in enumerate([*shared, *own])}
        self._hold(f"{name}_shared", shared)
        self._hold(f"{name}_own", own)
        self._hold(f"{name}_order", [order[column] for column in sorted(order)])

    def _split(self, name: str, rows: RequestRows, shared: Tensor, own: Tensor) -> SplitColumns:
        columns = self.get_buffer(f"{name}_shared"), self.get_buffer(f"{name}_own")
        return SplitColumns(rows, shared, own, columns, self.get_buffer(f"{name}_order"))


def _places_in(whole: NumericEncoder, part: NumericEncoder, columns: Sequence[int]) -> list[int]:
    """For each output of ``part``, an encoder of some columns, its place among the outputs of ``whole``."""
    seen: Counter[int] = Counter()
    places: dict[tuple[int, int], int] = {}
    for place, owner in enumerate(whole.owners):
        places[owner, seen[owner]] = place
        seen[owner] += 1
    seen.clear()
    found = []
    for owner in part.owners:
        column = columns[owner]
        # The outputs of one column have one order in any encoder.
        found.append(places[column, seen[column]])
        seen[column] += 1
    return found


def _shared_fields(columns: Sequence[IdColumn], own: set[str]) -> set[int]:
    """The id features that are embedded once a request: a new id may have the mean of a candidate's feature."""
    return {
        place
        for place, column in enumerate(columns)
        if own and column.name not in own and (column.cold_start is None or column.cold_start.parent not in own)
    }


def _tables(ranker: Ranker) -> list[FusedTable]:
    return [table for table in ranker.embeddings.tables.values() if isinstance(table, FusedTable)]


def _looked_up(table: FusedTable, fields: TableFields, given: Tensor, ids: Tensor) -> Tensor:
    """[rows, features, width] of some features, of the ids that are at hand and of whole rows of them."""
    if not fields.places:
        return torch.zeros((given.shape[0], 0, table.width))
    return table.embed(given, fields, ids)


def _side_by_side(parts: Sequence[Tensor], numeric: Tensor) -> Tensor:
    filled = [part for part in parts if part.shape[1]]
    if filled:
        return torch.cat(filled, dim=1)
    return parts[0] if parts else numeric.new_zeros((numeric.shape[0], 0))
