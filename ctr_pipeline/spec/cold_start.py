"""What a category's new values begin as."""

from collections.abc import Collection, Mapping
from typing import Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import Name, Section


class ColdStart(Section):
    """What a new value begins as: what the first days of earlier ones teach, and the mean of the values of the same parent."""

    parent: Name | None = Field(
        default=None,
        description="Categorical feature of one value that a value belongs to, such as its advertiser; none where a new value "
        "begins as unknown ones do.",
    )
    evidence: float = Field(
        default=500.0,
        gt=0,
        description="Training rows with which a value's own embedding counts as much as the mean of its parent.",
    )
    days: int = Field(
        default=7,
        ge=0,
        description="Days from its first training row on in which half of the rows of a value are learnt as those of a new one.",
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.parent is None and "evidence" in self.model_fields_set:
            raise ValueError("`evidence` is that of a value beside its `parent`: declare one, or remove it")
        if self.parent is None and not self.days:
            raise ValueError("without a `parent` and without `days` it does nothing: declare one of them, or remove it")
        return self


def refuse_absent_parents(cold_starts: Mapping[str, ColdStart], categories: Collection[str]) -> None:
    """Refuses a cold start whose parent is no other category of one value.

    Args:
        cold_starts: By the name of the feature.
        categories: Names of the categories of one value.

    Raises:
        ValueError: says which parent, and which there are.
    """
    for name, cold_start in cold_starts.items():
        others = sorted(set(categories) - {name})
        if cold_start.parent is not None and cold_start.parent not in others:
            raise ValueError(
                f"feature {name!r} has the cold start parent {cold_start.parent!r}, which is no other categorical feature "
                f"of one value; use one of {', '.join(others) or 'none: declare it'}"
            )
