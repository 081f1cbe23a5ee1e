"""The label history, which `ctr labels` shows: labels as of a day, and by which table version. See docs/labels.md."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.labels import LabelDay
    from ctr_pipeline.lake import Lake

FORMAT = 2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSITIVE = ("POSITIVE", "LATE_POSITIVE")


class LabelHistoryError(UserError):
    """There are no labels to answer from."""


def label_overview(deployment: Deployment, day: date | None) -> dict[str, Any]:
    """States of all labels as of the end of ``day``, and what share of the positives known today was known then.

    Args:
        deployment: The deployment.
        day: By default the newest instant as of which anything was labelled.

    Raises:
        LabelHistoryError: nothing was labelled yet, or not as late as that.
    """
    import polars as pl

    from ctr_pipeline.labels import facts_in, stored_states
    from ctr_pipeline.lake import Lake

    lake, spec = Lake(deployment.paths.lake), deployment.spec
    headers = _headers(lake)
    as_of = _instant(headers, day)
    stored = lake.scan("labels")
    shown = lake.scan("impressions").filter(pl.col("ingest_ts") <= as_of)
    counts = stored_states(spec, shown, stored, as_of)
    known = pl.col("known_ts").is_not_null()
    now = dict(
        facts_in(stored)
        .filter(known, pl.col("ingest_ts") <= as_of)
        .group_by("task")
        .len()
        .collect()
        .iter_rows()
    )  # fmt: skip
    older = [label_day for label_day, header in headers.items() if header.as_of < as_of and header.impressions]
    return {
        "format": FORMAT,
        "spec": spec.name,
        "as_of": _utc(as_of),
        "known_as_of": _utc(max(header.as_of for header in headers.values())),
        "labels_version": lake.version("labels"),
        "impressions": int(shown.select(pl.len()).collect().item()),
        "days_labelled_before": [day.isoformat() for day in sorted(older)],
        "tasks": {task: _task_overview(states, int(now.get(task, 0))) for task, states in counts.items()},
    }


def impression_history(deployment: Deployment, impression: str, day: date | None) -> dict[str, Any]:
    """The labels of one impression: the timeline of each task, and the table versions that held it.

    Args:
        deployment: The deployment.
        impression: Hash of the impression's id.
        day: The day at whose end the labels are asked for; by default the newest.

    Raises:
        LabelHistoryError: there is no such impression, or nothing was labelled as late as that.
    """
    import polars as pl

    from ctr_pipeline.lake import Lake

    lake = Lake(deployment.paths.lake)
    headers = _headers(lake)
    as_of = _instant(headers, day)
    shown = (
        lake.scan("impressions")
        .filter(pl.col("impression_id") == impression)
        .select("day", "impression_id", "ts", "ingest_ts")
        .sort("ts")
        .head(1)
        .collect()
    )
    if shown.is_empty():
        raise LabelHistoryError(
            f"no impression has the hash {impression}. Check the id, and that the key is the one the log was read with."
        )
    label_day = shown["day"][0]
    if label_day not in headers:
        raise LabelHistoryError(f"the impressions of {label_day} were never labelled. Run `ctr run` for that day.")
    versions = _versions(deployment, lake, shown)
    end = headers[label_day].as_of
    timeline = _timeline(deployment, lake.scan("labels", first=label_day, last=label_day), shown, end)
    tasks = [task.name for task in deployment.spec.tasks]
    return {
        "format": FORMAT,
        "spec": deployment.spec.name,
        "impression": {
            "hash": impression,
            "day": label_day.isoformat(),
            "at": _utc(shown["ts"][0]),
            "arrived": _utc(shown["ingest_ts"][0]),
        },
        "known_as_of": _utc(end),
        "tasks": {task: [_interval(row, versions) for row in timeline if row["task"] == task] for task in tasks},
        "label_as_of": _label_as_of(deployment, timeline, versions, shown["ts"][0], as_of, end),
        "versions": [
            {key: _utc(value) if key == "as_of" and value is not None else value for key, value in version.items()}
            for version in versions
        ],
    }


def _headers(lake: "Lake") -> "dict[date, LabelDay]":
    from ctr_pipeline.labels import label_days

    headers = label_days(lake.scan("labels")) if lake.exists("labels") else {}
    if not headers:
        raise LabelHistoryError(f"{lake.root}: nothing was labelled yet. Run `ctr run` first.")
    return headers


def _instant(headers: "Mapping[date, LabelDay]", day: date | None) -> int:
    newest = max(header.as_of for header in headers.values())
    if day is None:
        return newest
    if end_of_day_us(day) > newest:
        raise LabelHistoryError(
            f"--as-of {day}: the newest labels are made of what had arrived by {_utc(newest)}. Choose an earlier day, or run `ctr run`."
        )
    return end_of_day_us(day)


def _task_overview(states: Mapping[str, int], known_now: int) -> dict[str, Any]:
    positives = sum(states[state] for state in _POSITIVE)
    return {
        "states": dict(states),
        "positives": positives,
        "positives_known_now": known_now,
        "completeness": positives / known_now if known_now else None,
        "late_rate": states["LATE_POSITIVE"] / positives if positives else None,
    }


def _timeline(
    deployment: Deployment, stored: "pl.LazyFrame", shown: "pl.DataFrame", as_of: int
) -> list[dict[str, Any]]:
    """Intervals of the one impression ``shown``, from the facts of the day in ``stored``, ascending in time."""
    import polars as pl

    from ctr_pipeline.labels import facts_in, revisions

    facts = facts_in(stored).filter(pl.col("impression_id") == shown["impression_id"][0])
    spec = deployment.spec
    rows = revisions(shown.lazy(), facts, spec.tasks, as_of, spec.split.ingest_lag)
    return rows.collect().sort("from_ts").to_dicts()


def _versions(deployment: Deployment, lake: "Lake", shown: "pl.DataFrame") -> list[dict[str, Any]]:
    """What each version of the labels held about the impression as of its own instant, as it was stored."""
    from ctr_pipeline.labels import label_days
    from ctr_pipeline.lake.changes import versions_that_changed

    day = shown["day"][0]
    found: list[dict[str, Any]] = []
    for version in versions_that_changed(lake, "labels", day):
        if not all(Path(file).is_file() for file in lake.files("labels", version, day, day)):
            found.append({"version": version, "as_of": None, "tasks": None})
            continue
        stored = lake.scan("labels", version, day, day)
        headers = label_days(stored)
        if day in headers:
            as_of = headers[day].as_of
            newest = {row["task"]: row for row in _timeline(deployment, stored, shown, as_of)}
            found.append({"version": version, "as_of": as_of, "tasks": {t: _label(row) for t, row in newest.items()}})
    return found


def _interval(row: Mapping[str, Any], versions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    held = [
        version["version"]
        for version in versions
        if version["as_of"] is not None
        and row["from_ts"] <= version["as_of"] < (row["until_ts"] or float("inf"))
        and version["tasks"].get(row["task"], {}).get("state") == row["state"]
    ]
    until = row["until_ts"]
    return {
        "from": _utc(row["from_ts"]),
        "until": None if until is None else _utc(until),
        **_label(row),
        "elapsed_seconds": None if row["elapsed"] is None else row["elapsed"] / 1e6,
        "versions": held,
    }


def _label(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"state": row["state"], "value": row["value"], "revision": row["revision"]}


def _label_as_of(
    deployment: Deployment,
    timeline: Sequence[Mapping[str, Any]],
    versions: Sequence[Mapping[str, Any]],
    at: int,
    as_of: int,
    end: int,
) -> dict[str, Any]:
    """The label as of ``as_of`` of the impression of ``at``, and the version of the labels that held it then."""
    then: dict[str, Any] = {task.name: None for task in deployment.spec.tasks}
    for row in timeline:
        if row["from_ts"] <= as_of:
            then[row["task"]] = _label(row)
    made = [version for version in versions if version["as_of"] is not None]
    exact = [version for version in made if version["as_of"] == as_of]
    before = [version for version in made if version["as_of"] <= as_of]
    if exact:
        held = exact[-1]
        note = f"Version {held['version']} of labels, made as of that instant, held it."
        if held["tasks"] != {task: label for task, label in then.items() if label is not None}:
            note = f"Version {held['version']} of labels, made as of that instant, held something else: see `versions`."
    elif before:
        held = before[-1]
        note = f"The newest labels on that day were version {held['version']}, as of {_utc(held['as_of'])}."
    else:
        held = None
        note = f"No labels of that day are kept from then; what had arrived is known from labels as of {_utc(end)}."
    return {
        "as_of": _utc(as_of),
        "tasks": {task: label and {**label, "elapsed_seconds": _age(label, at, as_of)} for task, label in then.items()},
        "version": held["version"] if held else None,
        "version_as_of": _utc(held["as_of"]) if held else None,
        "held_by": note,
    }


def _age(label: Mapping[str, Any], at: int, as_of: int) -> float | None:
    """Seconds from the impression to ``as_of`` while its label is undecided."""
    return (as_of - at) / 1e6 if label["value"] is None else None


def _utc(instant: int) -> str:
    return (_EPOCH + timedelta(microseconds=instant)).isoformat().replace("+00:00", "Z")
