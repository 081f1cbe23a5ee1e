"""Shapes of the ranker's inputs: known from the layout when the ranker is built, checked where modules meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctr_pipeline.ranker.errors import RankerError

if TYPE_CHECKING:
    from torch import Tensor

    from ctr_pipeline.features.layout import IdColumn
    from ctr_pipeline.ranker.split_columns import SplitColumns


@dataclass(frozen=True, slots=True)
class FieldGroup:
    """The id features whose embeddings have one width.

    Attributes:
        width: Width d of each embedding.
        columns: Names of the F features, in the order of the packed array.
    """

    width: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InputShape:
    """What a module of the ranker can count on when it is built.

    Attributes:
        numbers: Width D of the encoded numbers: standardised values, 0/1 columns for missing values, bins, frequencies
            of ids.
        groups: The id features by the width of their embeddings, narrowest first; empty without id features.
        flags: First column of the numbers that says whether a value is missing, and the first behind them.
    """

    numbers: int
    groups: tuple[FieldGroup, ...]
    flags: tuple[int, int] = (0, 0)

    @property
    def embedded_width(self) -> int:
        """Width of all embeddings side by side."""
        return sum(group.width * len(group.columns) for group in self.groups)

    def equal_width_group(self, module: str) -> FieldGroup:
        """The only group, for a module that combines each field with each other and so needs embeddings of one width.

        Args:
            module: What asks, for the message.

        Raises:
            RankerError: there are no id features, or their embeddings differ in width; names the features.
        """
        if not self.groups:
            raise RankerError(
                f"{module} combines embeddings, but the dataset has no embedded feature: declare one under "
                f"`features.categorical`, or remove {module} from `model.interactions`"
            )
        if len(self.groups) > 1:
            found = "; ".join(f"{group.width} for {', '.join(group.columns)}" for group in self.groups)
            raise RankerError(
                f"{module} needs embeddings of one width, and they differ: {found}. Give these features the same "
                f"`embedding_dim`, or remove {module} from `model.interactions`"
            )
        return self.groups[0]


@dataclass(frozen=True, slots=True)
class EventShape:
    """What a module can count on when it is built.

    Attributes:
        length: Places L of the list.
        width: Width d of the embeddings of the items and of the candidate.
        kinds: Kinds K of events that its ids tell apart, rows 0 and 1 (missing, unknown) among them; 1 where all events
            are of one kind.
    """

    length: int
    width: int
    kinds: int


@dataclass(frozen=True, slots=True)
class Events:
    """The last events of G keys, the latest first; L places each.

    Attributes:
        items: [G, L, d] embeddings of what the events were of; zeros after the end of a list.
        kinds: [G, L] ids of the kinds of the events; None where all are of one kind.
        ages: [G, L] seconds before the impression, finite and not negative; anything after the end of a list.
        there: [G, L] whether there is an event: True, then False after the end of a list.
    """

    items: Tensor
    kinds: Tensor | None
    ages: Tensor
    there: Tensor


@dataclass(frozen=True, slots=True)
class RankerInputs:
    """An encoded batch of B rows, in float32: what the ranker's modules read.

    Attributes:
        numbers: [B, D] encoded numbers.
        fields: The embeddings, one [B, F, d] for each :attr:`InputShape.groups`, in its order.
        embedded: [B, W] the embeddings side by side, group by group.
        wide: [B, T] logits of the linear part; 0 without one.
        ids: [B, F] the vocabulary rows themselves.
        position: [B] positions, 0 = not logged; None where they are unknown.
        events: What each module of ``model.sequences`` reads, of G keys with B/G rows each, one after the other.
        split: ``numbers`` and ``embedded`` with what the rows of a request share apart; None where each row has its own.
    """

    numbers: Tensor
    fields: tuple[Tensor, ...]
    embedded: Tensor
    wide: Tensor | float
    ids: Tensor
    position: Tensor | None
    events: tuple[Events, ...] = ()
    split: tuple[SplitColumns, SplitColumns] | None = None


def group_by_width(columns: Sequence[IdColumn]) -> tuple[FieldGroup, ...]:
    """The id columns of a layout as groups of one width, narrowest first."""
    widths = sorted({column.dim for column in columns})
    return tuple(FieldGroup(w, tuple(column.name for column in columns if column.dim == w)) for w in widths)


def check_shape(what: str, tensor: Tensor, *trailing: int, rows: int | None = None) -> None:
    """Refuses a tensor whose shape is not [B, *trailing].

    Args:
        what: What the tensor is, for the message.
        tensor: The tensor.
        trailing: All sizes but the first.
        rows: The batch's rows B, where they are compared too. An exported graph then has another form, though it
            computes the same.

    Raises:
        RankerError: the shape is another one.
    """
    if tuple(tensor.shape[1:]) != trailing or (rows is not None and tensor.shape[0] != rows):
        expected = ["B" if rows is None else rows, *trailing]
        raise RankerError(
            f"{what}: shape [{', '.join(str(size) for size in tensor.shape)}] found, "
            f"[{', '.join(str(size) for size in expected)}] expected"
        )
