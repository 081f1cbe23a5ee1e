"""Renders facts as Dagster metadata: tables, column schemas, plots.

The page leaves a table about 470 pixels in a window that is 1280 wide: some five columns of short cells. What does not
fit is to be scrolled sideways, row by row; it belongs into the files that the metadata names.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import polars as pl

NO_BREAK = "\u00a0"
"""A space at which a line is not broken."""

STATE_COLUMNS = {
    "POSITIVE": "positive", "LATE_POSITIVE": "late", "NEGATIVE": "negative", "OUT_OF_WINDOW": "outside",
    "CENSORED": "censored",
}  # fmt: skip
"""Column of each label state, in a word: the page does not break a table's heads."""

DIGEST_SHOWN = 16
"""Digits of a SHA-256 that the page shows."""

PLOT_LIMIT = 60_000
"""Plots are stored in the event log, which is a database: larger ones are left to MLflow."""


def add_for_run(context: dg.AssetExecutionContext, asset: str, metadata: Mapping[str, Any]) -> None:
    """Adds what holds for all days of a run to the last of them: each day would store it again."""
    context.add_asset_metadata(dict(metadata), asset_key=asset, partition_key=context.partition_keys[-1])


def column_schema(frame: "pl.DataFrame") -> dg.TableSchema:
    """Names and types of a frame's columns."""
    return dg.TableSchema([dg.TableColumn(name, str(dtype)) for name, dtype in frame.schema.items()])


def table(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue | dg.TextMetadataValue:
    """A small table, floats with three digits for reading; the word "none" where there are no rows."""
    records = [dg.TableRecord({key: cell(value) for key, value in row.items()}) for row in rows]
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
    return [
        {"task": task, **{column: of_task.get(state, 0) for state, column in STATE_COLUMNS.items()}}
        for task, of_task in counts.items()
    ]


def interval(value: Mapping[str, float | None] | None) -> str:
    """A metric with its 95 % interval, three digits each: ``0.765 [0.748, 0.782]``, broken before the bracket alone."""
    if value is None or value.get("value") is None:
        return "–"
    if value.get("low") is None or value.get("high") is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} [{value['low']:.3f},{NO_BREAK}{value['high']:.3f}]"


def run_metadata(run_id: str, url: str) -> dict[str, Any]:
    """The MLflow run as metadata, with a link where the page's address is known."""
    return {"mlflow_run_id": run_id, **({"mlflow_run": dg.MetadataValue.md(f"[open in MLflow]({url})")} if url else {})}


def cell(value: Any) -> str | int | float | bool:
    """A value for reading: a float with three digits, or without a fraction from 1000 on; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return round(value) if abs(value) >= 1000 else float(f"{value:.3g}")
    return value if isinstance(value, str | int | bool) else str(value)
