"""How a spec writes the values that mean a missing one: for all columns of a log, or for one by its name."""

from typing import Annotated, Any

from pydantic import BeforeValidator

Value = str | int | float | bool
"""A value as a spec writes it."""


def _as_list(value: Any) -> Any:
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise ValueError(
            "a list of values is expected, such as ['', 'NA'], or a mapping of columns to lists, such as {age: [-1]}"
        )
    return entries


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return isinstance(entry, Value)
    return all(
        isinstance(column, str) and column and isinstance(values, list) and all(isinstance(v, Value) for v in values)
        for column, values in entry.items()
    )


NullValues = Annotated[list[Value | dict[str, list[Value]]], BeforeValidator(_as_list)]
"""Values for all columns, and mappings of columns to values; a mapping alone stands for a list of it."""


def null_values_of(declared: NullValues, column: str) -> list[Value]:
    """The values that mean a missing one in ``column``."""
    found: list[Value] = []
    for entry in declared:
        found += entry.get(column, []) if isinstance(entry, dict) else [entry]
    return found


def columns_with_null_values(declared: NullValues) -> list[str]:
    """The columns that have values of their own."""
    return [column for entry in declared if isinstance(entry, dict) for column in entry]
