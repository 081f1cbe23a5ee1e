"""Says from which inputs a partition was made, so that a second run does only what is missing.

A fingerprint covers everything that decides the content of a partition: the part of the spec that it reads, the
files of the log, and the instant as of which labels are seen. Equal fingerprint, equal content.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from datetime import date
from typing import Any

import dagster as dg

from ctr_pipeline import __version__
from ctr_pipeline.deployment.raw_logs import impression_files, key_fingerprint, outcome_files
from ctr_pipeline.deployment.settings import PipelineSettings, end_of_day_us
from ctr_pipeline.orchestration.metadata import newest_materializations

TAG = "ctr/fingerprint"
"""Tag of every materialisation."""

CONTRACT_TAG = "ctr/contract"
"""Tag of the days of raw tables: under another one, rows of two days do not fit together."""


def contract_fingerprint(settings: PipelineSettings) -> str:
    """How raw rows become stored ones: the sections of the spec that say so, the key of the hashes, and the columns."""
    from ctr_pipeline.sources import EVENT_SCHEMA

    spec = settings.spec.model_dump(mode="json")
    sections = ("time_zone", "source", "impression", "days", "privacy", "features", "tasks", "seed")
    for task in spec["tasks"]:
        task.pop("objective", None)  # what training minimises changes no stored row
    return _digest("contract", {name: spec[name] for name in sections}, key_fingerprint(os.environ), list(EVENT_SCHEMA))


def ingest_fingerprint(settings: PipelineSettings) -> str:
    """For the tables read from the raw logs: how they are read, the files, and the days that they have.

    Of unchanged files the last day moves when a time of the future has come to pass: its row then leaves the
    quarantine of the first day.
    """
    from ctr_pipeline.sources import source_fingerprint

    if settings.spec.source.simulator is not None:
        files = settings.simulation_hash
    else:
        events = [path for _, paths in sorted(outcome_files(settings).items()) for path in paths]
        files = source_fingerprint([*impression_files(settings), *events])
    return _digest(
        "ingest", contract_fingerprint(settings), files, settings.first_day.isoformat(), str(settings.last_day)
    )


def label_fingerprint(settings: PipelineSettings, watermark: date) -> str:
    """For labels: what was read, the last arrival day that was read, and the lag that is waited for."""
    return _digest("labels", ingest_fingerprint(settings), end_of_day_us(watermark), settings.spec.split.ingest_lag)


def history_fingerprint(settings: PipelineSettings, first: date) -> str:
    """For history features that look back to ``first`` at most."""
    return _digest("history", ingest_fingerprint(settings), settings.spec.split.ingest_lag, first.isoformat())


def reference_fingerprint(settings: PipelineSettings) -> str:
    """For the check of the events' impressions."""
    return _digest("references", ingest_fingerprint(settings))


def profile_fingerprint(settings: PipelineSettings) -> str:
    """For the profiles of the days."""
    return _digest("profile", ingest_fingerprint(settings))


def retrain_fingerprint(settings: PipelineSettings, instance: dg.DagsterInstance, last: date) -> str:
    """For everything from the examples to the champion of ``last``: the whole spec, and every day that was read."""
    read = {
        asset: sorted((str(day), tag) for day, tag in newest_tags(instance, asset, TAG).items() if day <= last)
        for asset in ("impressions", "outcome_events")
    }
    return _digest("retrain", settings.spec.model_dump(mode="json"), str(settings.first_day), read)


def newest_tags(instance: dg.DagsterInstance, asset: str, tag: str) -> dict[date, str]:
    """Value of ``tag`` of the newest materialisation of each day; empty where it has none."""
    return {day: (found.tags or {}).get(tag, "") for day, found in newest_materializations(instance, asset).items()}


def fresh_days(instance: dg.DagsterInstance, asset: str, days: Sequence[date], fingerprint: str) -> set[date]:
    """Those of ``days`` whose newest materialisation carries ``fingerprint``."""
    newest = newest_tags(instance, asset, TAG)
    return {day for day in days if newest.get(day) == fingerprint}


def _digest(*parts: Any) -> str:
    content = json.dumps([__version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
