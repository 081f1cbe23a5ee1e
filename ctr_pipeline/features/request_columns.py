"""Which inputs of the model all candidates of a request share, and which each has of its own."""

from dataclasses import dataclass
from typing import Self

from ctr_pipeline.features.layout import Layout


@dataclass(frozen=True, slots=True)
class RequestColumns:
    """Columns of the numeric and of the id array, each in ascending order.

    Events of the past stand behind all other columns and are always shared.

    Attributes:
        shared_numbers: Columns of numbers that all candidates of a request share.
        own_numbers: Columns of numbers that each candidate has of its own.
        shared_ids: Columns of ids that all candidates share.
        own_ids: Columns of ids that each candidate has of its own.
    """

    shared_numbers: tuple[int, ...]
    own_numbers: tuple[int, ...]
    shared_ids: tuple[int, ...]
    own_ids: tuple[int, ...]

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """Those of a layout: where it declares no candidates' features, all but event lists may differ."""
        before = layout.without_event_lists()
        own = set(layout.candidate_features) or {
            *(column.feature for column in before.numeric),
            *(column.name for column in before.ids),
        }
        numbers = [column.feature in own for column in layout.numeric]
        ids = [column.name in own for column in layout.id_columns]
        return cls(
            shared_numbers=tuple(place for place, differs in enumerate(numbers) if not differs),
            own_numbers=tuple(place for place, differs in enumerate(numbers) if differs),
            shared_ids=tuple(place for place, differs in enumerate(ids) if not differs),
            own_ids=tuple(place for place, differs in enumerate(ids) if differs),
        )

    @classmethod
    def whole(cls, layout: Layout) -> Self:
        """Those of a model that reads whole rows: nothing is shared."""
        return cls((), tuple(range(len(layout.numeric))), (), tuple(range(len(layout.id_columns))))

    @property
    def share(self) -> bool:
        """Whether anything is shared."""
        return bool(self.shared_numbers or self.shared_ids)
