"""Renders facts as Dagster metadata: tables, column schemas, plots."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import polars as pl

PLOT_LIMIT = 60_000
"""Plots live in the event log, which is a database: larger ones are left to MLflow."""


def column_schema(frame: "pl.DataFrame") -> dg.TableSchema:
    """Names and types of a frame's columns."""
    return dg.TableSchema([dg.TableColumn(name, str(dtype)) for name, dtype in frame.schema.items()])


def table(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue | dg.TextMetadataValue:
    """A small table, floats rounded to six digits for reading; the word "none" where there are no rows."""
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


def newest_materializations(instance: dg.DagsterInstance, asset: str) -> dict[date, dg.AssetMaterialization]:
    """The newest materialisation of each day."""
    newest: dict[date, dg.AssetMaterialization] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(dg.AssetKey(asset), limit=1000, cursor=cursor)
        for record in page.records:
            found = record.asset_materialization
            if found is not None and found.partition is not None:
                newest.setdefault(date.fromisoformat(found.partition), found)
        if not page.has_more:
            return newest
        cursor = page.cursor


def newest_metadata(instance: dg.DagsterInstance, asset: str) -> dict[date, dict[str, Any]]:
    """Metadata of the newest materialisation of each day."""
    return {
        day: {key: entry.value for key, entry in found.metadata.items()}
        for day, found in newest_materializations(instance, asset).items()
    }


def _cell(value: Any) -> str | int | float | bool:
    if value is None:
        return "–"
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value if isinstance(value, str | int | bool) else str(value)
