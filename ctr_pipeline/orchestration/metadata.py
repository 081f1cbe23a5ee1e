"""Renders facts as Dagster metadata: tables, column schemas, plots."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import polars as pl

PLOT_LIMIT = 60_000
"""Plots are stored in the event log, which is a database: larger ones are left to MLflow."""


def column_schema(frame: "pl.DataFrame") -> dg.TableSchema:
    """Names and types of a frame's columns."""
    return dg.TableSchema([dg.TableColumn(name, str(dtype)) for name, dtype in frame.schema.items()])


def table(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue | dg.TextMetadataValue:
    """A small table, floats rounded to four digits for reading; the word "none" where there are no rows."""
    records = [dg.TableRecord({key: _cell(value) for key, value in row.items()}) for row in rows]
    return dg.MetadataValue.table(records) if records else dg.MetadataValue.text("none")


def plots(images: Mapping[str, bytes]) -> dict[str, dg.MarkdownMetadataValue]:
    """PNG images as metadata entries; those too large for the event log are left out."""
    return {
        name: dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})")
        for name, png in images.items()
        if len(png) <= PLOT_LIMIT
    }


def state_rows(counts: Mapping[str, Mapping[str, int]]) -> Sequence[dict[str, Any]]:
    """Label states, a row for each task."""
    states = sorted({state for of_task in counts.values() for state in of_task})
    return [{"task": task, **{state: of_task.get(state, 0) for state in states}} for task, of_task in counts.items()]


def interval(value: Mapping[str, float | None] | None) -> str:
    """A metric with its 95 % interval, three digits each: ``0.765 [0.748, 0.782]``."""
    if value is None or value.get("value") is None:
        return "–"
    if value.get("low") is None or value.get("high") is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _cell(value: Any) -> str | int | float | bool:
    if value is None:
        return "–"
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value if isinstance(value, str | int | bool) else str(value)
