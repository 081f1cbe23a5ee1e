"""Says from which inputs a partition was made, so that a second run does only what is missing.

A fingerprint covers everything that decides the content of a partition: the part of the spec that it reads, the
files of the log, and the instant as of which labels are seen. Equal fingerprint, equal content.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from typing import Any

import dagster as dg

from ctr_pipeline import __version__
from ctr_pipeline.orchestration.settings import PipelineSettings, end_of_day_us
from ctr_pipeline.orchestration.sources import impression_files, outcome_files

TAG = "ctr/fingerprint"
"""Tag of every materialisation."""


def ingest_fingerprint(settings: PipelineSettings) -> str:
    """For the tables read from the raw logs: files, and the sections that say how to read them."""
    from ctr_pipeline.sources import source_fingerprint

    spec = settings.spec.model_dump(mode="json")
    sections = {
        name: spec[name]
        for name in ("time_zone", "source", "impression", "days", "privacy", "features", "tasks", "seed")
    }
    if settings.spec.source.simulator is not None:
        files = settings.simulation_hash
    else:
        events = [path for _, paths in sorted(outcome_files(settings).items()) for path in paths]
        files = source_fingerprint([*impression_files(settings), *events])
    return _digest("ingest", sections, files, settings.first_day.isoformat())


def label_fingerprint(settings: PipelineSettings, watermark: date) -> str:
    """For labels: what was read, and the last arrival day that was read."""
    return _digest("labels", ingest_fingerprint(settings), end_of_day_us(watermark))


def history_fingerprint(settings: PipelineSettings) -> str:
    """For history features."""
    return _digest("history", ingest_fingerprint(settings))


def retrain_fingerprint(settings: PipelineSettings) -> str:
    """For everything from the examples to the champion: the whole spec."""
    return _digest("retrain", ingest_fingerprint(settings), settings.spec.model_dump(mode="json"))


def fresh_days(instance: dg.DagsterInstance, asset: dg.AssetKey, days: Sequence[date], fingerprint: str) -> set[date]:
    """Those of ``days`` whose newest materialisation carries ``fingerprint``."""
    wanted = {day.isoformat() for day in days}
    newest: dict[str, str | None] = {}
    cursor: str | None = None
    while wanted - newest.keys():
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset, asset_partitions=sorted(wanted)), limit=500, cursor=cursor
        )
        for record in page.records:
            materialization = record.asset_materialization
            if materialization is not None and materialization.partition is not None:
                newest.setdefault(materialization.partition, (materialization.tags or {}).get(TAG))
        if not page.has_more:
            break
        cursor = page.cursor
    return {date.fromisoformat(day) for day, found in newest.items() if found == fingerprint}


def _digest(*parts: Any) -> str:
    content = json.dumps([__version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
