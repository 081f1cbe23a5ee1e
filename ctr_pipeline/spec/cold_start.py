"""What a category's new values begin as."""

from collections.abc import Collection, Mapping

from pydantic import Field

from ctr_pipeline.spec.fields import Name, Section


class ColdStart(Section):
    """A new value, or one with few training rows, is drawn towards the mean embedding of the values that share its parent."""

    parent: Name = Field(
        description="Categorical feature of one value that a value belongs to, such as its advertiser."
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
        if cold_start.parent not in others:
            raise ValueError(
                f"feature {name!r} has the cold start parent {cold_start.parent!r}, which is no other categorical feature "
                f"of one value; use one of {', '.join(others) or 'none: declare it'}"
            )
