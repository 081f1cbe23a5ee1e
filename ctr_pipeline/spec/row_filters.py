"""How a spec says which rows of a log are of interest; the others are read, counted and left out."""

from datetime import date, datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from ctr_pipeline.spec.fields import Column, Section


def _bound(value: Any) -> Any:
    """A number as it is, a time as its text: YAML reads a bare date as one."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                "a number is expected, or a time such as 2026-01-31 or 2026-01-31T08:15:00+01:00; other texts have no order"
            ) from None
    elif isinstance(value, bool) or (value is not None and not isinstance(value, int | float)):
        raise ValueError("a number is expected, or a time such as 2026-01-31")
    return value


Bound = Annotated[int | float | str | None, BeforeValidator(_bound)]
"""The end of a range: a number, or a time in the spelling of ISO 8601."""


class RowFilter(Section):
    """Which values of one column the rows of interest have."""

    column: Column = Field(description="Column of the log.")
    keep: list[str | int | float | bool | None] = Field(
        default=[], description="Values of the rows that are kept; null stands for a missing one."
    )
    drop: list[str | int | float | bool | None] = Field(default=[], description="Values of the rows that are left out.")
    at_least: Bound = Field(default=None, description="Smallest number, or first time, of the rows that are kept.")
    below: Bound = Field(
        default=None, description="The number, or time, that those of the rows that are kept stay below."
    )

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        bounds = [bound for bound in (self.at_least, self.below) if bound is not None]
        given = [name for name, value in (("keep", self.keep), ("drop", self.drop), ("a range", bounds)) if value]
        if len(given) != 1:
            raise ValueError(
                f"declare one of `keep`, `drop` and a range (`at_least`, `below`); found {' and '.join(given) or 'none'}"
            )
        if len({isinstance(bound, str) for bound in bounds}) > 1:
            raise ValueError(f"`at_least` {self.at_least} and `below` {self.below} are both numbers or both times")
        if len(bounds) == 2 and self._is_empty(*bounds):
            raise ValueError(
                f"`at_least` {self.at_least} is not less than `below` {self.below}: no row has such a value"
            )
        return self

    @staticmethod
    def _is_empty(first: Any, end: Any) -> bool:
        if not isinstance(first, str):
            return bool(first >= end)
        times = datetime.fromisoformat(first), datetime.fromisoformat(end)
        # Of a time with an offset and one without, the zone of the log decides.
        return times[0] >= times[1] if (times[0].tzinfo is None) == (times[1].tzinfo is None) else False

    @property
    def is_range(self) -> bool:
        """Whether it looks at the order of values, and not at the values themselves."""
        return not self.keep and not self.drop


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


RowFilters = Annotated[list[RowFilter], BeforeValidator(_as_list)]
"""Filters that a row has to pass all; one alone stands for a list of it."""
