"""From what a partition was made, as a digest, so that a second run does only what is missing.

A fingerprint covers everything that decides the content of a partition: the code that makes it, the part of the spec
that it reads, the files of the log, and the instant as of which labels are seen. Equal fingerprint, equal content.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline import __version__
from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.key import key_fingerprint
from ctr_pipeline.deployment.raw_logs import list_logs
from ctr_pipeline.orchestration.records import days_of, newest_tags
from ctr_pipeline.provenance import code_digest, extension_digests

if TYPE_CHECKING:
    from ctr_pipeline.sources import Logs

TAG = "ctr/fingerprint"
"""Tag of every materialisation."""

CONTRACT_TAG = "ctr/contract"
"""Tag of the days of raw tables: under another one, rows of two days do not fit together."""

INGEST_CODE = (
    "errors.py",
    "spec",
    "lake",
    "engines",
    "sources",
    "simulator",
    "privacy",
    "orchestration/assets/ingest.py",
)
"""What reads the raw logs: packages and files of `ctr_pipeline`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintInputs:
    """What the fingerprints look at."""

    deployment: Deployment
    instance: dg.DagsterInstance
    last: date
    """Last day of the run; the day of a retrain."""
    watermark: date | None = None
    """Last arrival day up to which all outcomes were read; only the labels need it."""
    logs: "Logs | None" = None
    """The files that were read, or are to be; only the raw tables need them."""


def contract_fingerprint(deployment: Deployment) -> str:
    """How raw rows become stored ones: the sections of the spec that decide it, the key of the hashes, and the columns.

    The code is not part of it: days that were read before an upgrade fit those read after it.
    """
    from ctr_pipeline.sources import EVENT_SCHEMA

    spec = deployment.spec.model_dump(mode="json")
    for task in spec["tasks"]:
        task.pop("objective", None)  # what training minimises changes no stored row
    sections = ("time_zone", "source", "impression", "days", "privacy", "features", "tasks", "seed")
    key = key_fingerprint(process_environment())
    keys = [deployment.spec.key_columns] if deployment.spec.key_columns else []
    return digest("contract", {name: spec[name] for name in sections}, key, list(EVENT_SCHEMA), *keys)


def ingest_fingerprint(deployment: Deployment, logs: "Logs | None" = None) -> str:
    """For the tables read from the raw logs: how they are read, the files, and the days that they have.

    The files are those of ``logs``, as they were listed before they were read.

    Of unchanged files the last day moves when a time of the future has come to pass: its row then leaves the
    quarantine of the first day.
    """
    from ctr_pipeline.sources import source_fingerprint

    if deployment.spec.source.simulator is not None:
        files = deployment.simulation_hash
    else:
        files = source_fingerprint((logs or list_logs(deployment)).files)
    days = (deployment.first_day.isoformat(), str(deployment.last_day))
    return digest("ingest", contract_fingerprint(deployment), files, *days, code_digest(INGEST_CODE))


def of_files(inputs: FingerprintInputs) -> list[Any]:
    """For the raw tables."""
    return [ingest_fingerprint(inputs.deployment, inputs.logs)]


def read_only(inputs: FingerprintInputs) -> list[Any]:
    """For tables that depend on nothing but what was read: on what is stored of the logs, not on their files now.

    One value where all days were read alike, so that days which are read later change nothing of those before.
    """
    read = []
    for asset in ("impressions", "outcome_events"):
        tags = newest_tags(inputs.instance, asset, TAG)
        days = days_of(inputs.instance, asset, inputs.deployment) & tags.keys()
        alike = {tags[day] for day in days}
        read.append(sorted(alike) if len(alike) == 1 else sorted((str(day), tags[day]) for day in days))
    return read


def labels_decided_by(inputs: FingerprintInputs) -> list[Any]:
    """For labels: what was read, the last arrival day that was read, and the lag that is waited for."""
    assert inputs.watermark is not None
    deployment = inputs.deployment
    return [*read_only(inputs), end_of_day_us(inputs.watermark), deployment.spec.split.ingest_lag]


def history_decided_by(inputs: FingerprintInputs) -> list[Any]:
    """For history features, which look back to the first day that was read at most."""
    deployment = inputs.deployment
    first = min(days_of(inputs.instance, "impressions", deployment))
    return [*read_only(inputs), deployment.spec.split.ingest_lag, first.isoformat()]


def requests_decided_by(inputs: FingerprintInputs) -> list[Any]:
    """For the log of requests: the segments that were not fetched yet."""
    files = sorted(inputs.deployment.paths.serving_spool.glob("*"))
    return [[path.stem, path.stat().st_size] for path in files if path.is_file()]


def skew_decided_by(inputs: FingerprintInputs) -> list[Any]:
    """For the skew of requests: which days have how many; where there are some, also what they are compared with."""
    from ctr_pipeline.lake import Lake

    lake = Lake(inputs.deployment.paths.lake)
    rows = lake.rows_by_day("serving_log") if lake.exists("serving_log") else {}
    if not rows:
        return []
    history = sorted((str(day), tag) for day, tag in newest_tags(inputs.instance, "history", TAG).items())
    return [sorted((str(day), count) for day, count in rows.items()), *read_only(inputs), history]


def retrain_decided_by(inputs: FingerprintInputs) -> list[Any]:
    """For everything from the examples to the champion: the whole spec, every day that was read, and extensions."""
    read = {
        asset: sorted(
            (str(day), tag) for day, tag in newest_tags(inputs.instance, asset, TAG).items() if day <= inputs.last
        )
        for asset in ("impressions", "outcome_events")
    }
    extensions = sorted(extension_digests().items())
    return [inputs.deployment.spec.model_dump(mode="json"), str(inputs.deployment.first_day), read, extensions]


def digest(*parts: Any) -> str:
    """Digest of plain values and of the package's version."""
    content = json.dumps([__version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
