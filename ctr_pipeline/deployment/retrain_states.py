"""What a retrain keeps, read from its folders and the lake for a comparison with another retrain."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.retrain_files import ExamplesView, MissingFileError, RetrainFiles
from ctr_pipeline.deployment.retrain_places import NoRetrainError, RetrainPlace
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.attribution.differences import RetrainState
    from ctr_pipeline.lake import Lake
    from ctr_pipeline.spec import Spec

MOST_ROWS = 300_000
"""Impressions whose values are compared at most: those whose hash of the id, or of the time, is smallest."""


def hashed_by(old: RetrainPlace, new: RetrainPlace) -> str:
    """The column by whose hash rows of both are sampled: one that both have the same values of."""
    keys = [read_json(place.paths.provenance).get("key_fingerprint") for place in (old, new)]
    return "impression_id" if keys[0] == keys[1] else "ts"


def retrain_state(place: RetrainPlace, sampled_by: str = "impression_id", most_rows: int = MOST_ROWS) -> "RetrainState":
    """What the retrain keeps.

    Args:
        place: Where it lies.
        sampled_by: The column by whose hash its rows are sampled, where there are more than ``most_rows``.
        most_rows: Rows whose values are read at most.

    Raises:
        NoRetrainError: its spec, its view of the tables or its scores are gone, or the tables are.
    """
    import numpy as np

    from ctr_pipeline.attribution.differences import RetrainState
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.lake import Lake, LakeError
    from ctr_pipeline.spec import parse_spec

    paths = place.paths
    files = RetrainFiles(paths)
    try:
        spec = parse_spec(paths.spec.read_text(encoding="utf-8"), where=str(paths.spec))
        view = files.examples()
    except (OSError, MissingFileError) as error:
        raise NoRetrainError(f"{paths.training}: the retrain is not whole: {error}") from None
    notes: list[str] = []
    try:
        keys, rows, events = _tables(spec, view, Lake(place.lake), sampled_by, most_rows)
    except (LakeError, OSError) as error:
        raise NoRetrainError(
            f"{place.root}: the tables that the retrain of {place.day} read are gone: {error}"
        ) from None
    tasks = [task.name for task in spec.tasks]
    try:
        layout, vocabulary = files.layout(), files.vocabulary()
    except MissingFileError as error:
        layout, vocabulary = None, None
        notes.append(str(error))
    try:
        test = PackedDataset.open(paths.packed, ["test"]).splits["test"]
        logits, labels, users = files.calibrated("test", tasks), np.asarray(test.labels), np.asarray(test.user)
    except UserError as error:
        logits, labels, users = np.zeros((0, len(tasks))), np.zeros((0, len(tasks)), np.int8), np.zeros(0, np.int64)
        notes.append(str(error))
    return RetrainState(
        name=str(paths.training),
        day=place.day,
        spec=spec,
        lineage=read_json(paths.provenance),
        layout=layout,
        vocabulary=vocabulary,
        keys=keys,
        rows=rows,
        events=events,
        quarantined=_quarantined(place),
        result=read_json(paths.result),
        curve=_lines(paths.training / "validation.jsonl"),
        evaluation=read_json(paths.evaluation),
        logits=logits,
        labels=labels,
        users=users,
        notes=tuple(notes),
    )


def _tables(
    spec: "Spec", view: ExamplesView, lake: "Lake", sampled_by: str, most_rows: int
) -> "tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]":
    """Keys of all impressions of the retrain, the rows of a sample with history and labels, and outcomes."""
    import polars as pl

    from ctr_pipeline.datasets.examples import build_examples, in_interval, utc_day
    from ctr_pipeline.datasets.view import read_tables

    bounds = view.bounds
    start, end = bounds.train_start, bounds.test_end
    tables = read_tables(lake, view.versions, utc_day(start), utc_day(end - 1))
    shown = in_interval(tables.impressions, start, end).filter(pl.col("ingest_ts") <= view.as_of)
    test = bounds.rows_of("test").alias("test")
    keys = shown.select(
        "impression_id",
        "ts",
        "day",
        "position",
        test,
        *(["split_key"] if "split_key" in shown.collect_schema() else []),
    )
    found = keys.collect().drop("split_key", strict=False)
    if found.height > most_rows:
        share = most_rows / found.height
        shown = shown.filter(pl.col(sampled_by).hash(seed=1) < int(share * 2**64))
    labels = in_interval(tables.labels, start, end)
    rows = build_examples(spec, shown, labels, tables.history, view.as_of, view.watermarks.get("test"))
    events = _events(lake, view)
    return found, rows.with_columns(test).collect(), events


def _events(lake: "Lake", view: ExamplesView) -> "pl.DataFrame":
    import polars as pl

    columns = ["impression_id", "event", "event_ts", "ingest_ts"]
    if not lake.exists("outcome_events"):
        return pl.DataFrame(schema=dict.fromkeys(columns[:2], pl.String) | dict.fromkeys(columns[2:], pl.Int64))
    scanned = lake.scan("outcome_events", view.versions.get("outcome_events"))
    return (
        scanned.filter(pl.col("ingest_ts") <= view.as_of)
        .select(columns)
        .unique(["impression_id", "event"], keep="first", maintain_order=True)
        .collect()
    )


def _quarantined(place: RetrainPlace) -> Mapping[str, int]:
    """Rows that were kept out, by ``table.reason``."""
    import polars as pl

    from ctr_pipeline.lake import Lake

    lake = Lake(place.lake)
    found: dict[str, int] = {}
    for table in ("impressions", "outcome_events"):
        if lake.exists(f"{table}_quarantine"):
            counted = lake.scan(f"{table}_quarantine").group_by("reason").agg(pl.len()).collect()
            found |= {f"{table}.{reason}": int(count) for reason, count in counted.iter_rows()}
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    import json

    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
