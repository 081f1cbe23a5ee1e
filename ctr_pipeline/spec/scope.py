"""Which days are read, and what of them must not be stored in the clear."""

from datetime import date
from typing import Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import Column, Section


class Days(Section):
    """The range of daily partitions."""

    first: date | None = Field(default=None, description="First day, UTC; found in the log when absent.")
    last: date | None = Field(default=None, description="Last day, UTC; a growing log has none.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.first and self.last and self.last < self.first:
            raise ValueError(f"`last` {self.last} is before `first` {self.first}: swap or correct them")
        return self


class Privacy(Section):
    """What must not be stored in the clear."""

    pseudonymise: list[Column] = Field(
        default=[],
        description="Further columns whose values are replaced by a keyed hash. User, session and impression ids always are.",
    )
