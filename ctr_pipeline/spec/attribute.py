"""How events that name no impression are given one."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ctr_pipeline.spec.fields import Column, Duration, Section


def _by_impression_column(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        twice = next((part for part in value if value.count(part) > 1), None)
        if twice is not None:
            raise ValueError(f"names {twice!r} twice")
        value = {part: part for part in value}
    if not isinstance(value, dict) or not value:
        raise ValueError(
            "a list of columns that both logs have is expected, such as [user, item], or a mapping of columns of the "
            "impression log to columns of this log, such as {user: customer, item: sku}"
        )
    return value


class Attribute(Section):
    """An event belongs to the latest impression with the same values, at most a while before it."""

    by: Annotated[dict[Column, Column], BeforeValidator(_by_impression_column)] = Field(
        description="Columns that are equal in the event and its impression: a list where both logs call them alike, else columns of the impression log with those of this log."
    )
    within: Duration = Field(description="How long before the event its impression may have been, both ends included.")
