"""What the report of a run says: what came in, what the model can do, what the checks found. See docs/report.md."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.paths import DataRoot, RetrainPaths
from ctr_pipeline.orchestration.gates import SUMMARIES
from ctr_pipeline.orchestration.run_facts import RunFacts
from ctr_pipeline.orchestration.stages import INGEST_STEP, names, tables
from ctr_pipeline.spec import spec_hash

FORMAT = 2
"""Format 1 had other names for three keys; it is read with the names of today."""
PROMOTED, NOT_PROMOTED, REFUSED, FAILED = "promoted", "not_promoted", "refused", "failed"
"""How a run ended: the model is the champion; the champion stays; the model must not be served; a step failed."""
EVALUATED = "evaluated"
"""Of a run that is still at work: the model is evaluated, and not released yet."""
REFUSING_STEPS = ("evaluation", "serving_bundle", "champion")
"""Steps that fail where the model was made and must not be served."""
MOST_TYPES = 20
"""Ignored types of events that the report names."""
MOST_FLAGGED_KEYS = 100
"""Keys with implausible labels that the report lists."""


def build_report(
    deployment: Deployment, facts: RunFacts, first: date, last: date, until: str | None = None
) -> dict[str, Any]:
    """Collects the report of the days ``first`` to ``last`` from the lake, Dagster and the files of the retrain.

    Where a step failed, what it and the steps after it would have made is empty: older files are of another run. So it is in
    a report while the run is at work: ``until`` is then the asset that was made last; the states of all labels, which take a
    pass over the table, are left out too.
    """
    paths, spec = deployment.paths, deployment.spec
    retrain, made = paths.retrain(last.isoformat()), _made(facts, until)
    result = read_json(retrain.result) if "ranker" in made else {}
    release = read_json(retrain.release) if "champion" in made else {}
    outcome = _outcome(facts, release)
    if "champion" not in made and facts.failure is None:
        outcome["status"] = EVALUATED
    failure = _training_failure(retrain) if outcome["step"] == "ranker" else {}
    if failure:
        # The findings and the evidence are in the failure.
        outcome["reason"] = f"ranker: {failure['reason']}"
    return {
        "format": FORMAT,
        "spec": {"name": spec.name, "hash": spec_hash(spec)},
        "days": {"first": first.isoformat(), "last": last.isoformat()},
        "as_of": datetime.fromtimestamp(end_of_day_us(last) / 1e6, UTC).isoformat(),
        "outcome": outcome,
        "tables": _tables(paths),
        "rows": {table: _rows(paths, facts, table, first, last) for table in names(step=INGEST_STEP)},
        "ignored_types": _ignored_types(deployment, facts),
        "remarks": [*facts.remarks, *([remark] if (remark := spec.split.remark) else [])],
        "labels": _label_states(deployment, first, last) if "labels" in made and until is None else {},
        "split": splits_of_today(read_json(retrain.packed_manifest).get("splits", {}))
        if "training_dataset" in made
        else {},
        "propensity": read_json(retrain.propensity) if "position_propensity" in made else {},
        "label_quality": _label_quality(retrain.advertiser_quality) if "advertiser_quality" in made else {},
        "metrics": read_json(retrain.evaluation).get("metrics", {}) if "evaluation" in made else {},
        "test_otherwise": read_json(retrain.evaluation).get("test_otherwise", {}) if "evaluation" in made else {},
        "floor": read_json(retrain.evaluation).get("floor", {}) if "evaluation" in made else {},
        "slices": read_json(retrain.evaluation).get("slices", {}) if "evaluation" in made else {},
        **_further_measures(retrain.evaluation if "evaluation" in made else None),
        "position_effect": read_json(retrain.position_effect) if "ranker" in made else {},
        "checks": facts.checks,
        "model": {
            "sha256": result.get("model_sha256"),
            "folder": str(retrain.training),
            "best_epoch": result.get("best_epoch"),
            "branches": result.get("branches", []),
            "training": {key: result.get(key) for key in ("status", "steps", "seconds", "rows_per_second", "device")},
            "version": release.get("version"),
            "promoted": release.get("promoted", False),
            "reasons": release.get("reasons", []) or ([outcome["reason"]] if outcome["reason"] else []),
        },
        "training_failure": failure,
        "mlflow": read_json(retrain.mlflow_run) if "ranker" in made or failure else {},
        "seconds": facts.seconds,
        "dagster_runs": [
            {"run_id": run.run_id, "assets": list(run.assets), "first": str(run.first), "last": str(run.last)}
            for run in facts.runs
        ],
    }


FURTHER_MEASURES = ("test_references", "test_by_day", "slices_found", "ranking_revenue", "champion")
"""Keys of evaluation.json that files of earlier versions do not have."""


def _further_measures(evaluation: Path | None) -> dict[str, Any]:
    content = {} if evaluation is None else read_json(evaluation)
    return {key: content.get(key, {}) for key in FURTHER_MEASURES}


def _made(facts: RunFacts, until: str | None) -> tuple[str, ...]:
    """The assets that this run left up to date, or has by now.

    An evaluation that refuses its model is made; of other steps that fail nothing counts.
    """
    order = names()
    if until is not None:
        return order[: order.index(until) + 1]
    if facts.failure is None:
        return order
    if facts.failure.step not in order:
        return ()
    failed = order.index(facts.failure.step)
    return order[: failed + 1] if facts.failure.step in REFUSING_STEPS[:1] else order[:failed]


def _training_failure(retrain: RetrainPaths) -> dict[str, Any]:
    """What is kept of the training that has just failed; empty where it had not begun."""
    run_id = read_json(retrain.mlflow_run).get("run_id")
    return read_json(retrain.kept_failure(str(run_id)) / "failure.json") if run_id else {}


def _outcome(facts: RunFacts, release: Mapping[str, Any]) -> dict[str, Any]:
    """How the run ended: see docs/report.md."""
    failure = facts.failure
    if failure is None:
        return {"status": PROMOTED if release.get("promoted") else NOT_PROMOTED, "step": None, "reason": None}
    if failure.step not in REFUSING_STEPS:
        return {"status": FAILED, "step": failure.step or None, "reason": failure.message}
    errors = [check for check in facts.checks if not check["passed"] and check["severity"] == "ERROR"]
    # The step knows its own checks; those of earlier steps are grounds too.
    named = {f"{check['asset']}.{check['check']}": check["description"] for check in errors}
    found = [f"{name}: {text}" for name, text in named.items() if name not in SUMMARIES]
    return {"status": REFUSED, "step": failure.step, "reason": " ".join(found) or failure.message}


def _label_states(deployment: Deployment, first: date, last: date) -> dict[str, dict[str, int]]:
    from ctr_pipeline.labels import stored_states
    from ctr_pipeline.lake import Lake

    lake = Lake(deployment.paths.lake)
    shown, labels = (lake.scan(table, first=first, last=last) for table in ("impressions", "labels"))
    return stored_states(deployment.spec, shown, labels)


def splits_of_today(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows, instants and label states of each split of the packed arrays, with the names of today."""
    named = {
        name: {"awaiting_data" if key == "undelivered" else key: value for key, value in split.items()}
        for name, split in splits.items()
    }
    return {name: {"tasks": _one_for_all_tasks(split), **split} for name, split in named.items()}


def _one_for_all_tasks(split: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Counts by task of a split of before tasks had parts of their own."""
    found = {}
    for task, states in split["states"].items():
        rows, awaiting = sum(states.values()), split.get("awaiting_data", {}).get(task, 0)
        censored = states.get("CENSORED", 0) + awaiting
        positives = states.get("POSITIVE", 0) + states.get("LATE_POSITIVE", 0)
        counts = {"rows": rows, "settled": rows - censored, "censored": censored, "positives": positives}
        found[task] = {"start": split["first"], "end": split["last"], **counts}
    return found


def _label_quality(path: Path) -> dict[str, Any]:
    """What was found of the keys; of those that are flagged the worst."""
    from ctr_pipeline.labels.quality import with_names_of_today

    content = with_names_of_today(read_json(path))
    content.pop("format", None)
    return {**content, "flagged": content["flagged"][:MOST_FLAGGED_KEYS]}


def _tables(paths: DataRoot) -> dict[str, dict[str, Any]]:
    from ctr_pipeline.lake import Lake

    lake, ingested, made = Lake(paths.lake), names(step=INGEST_STEP), tables()
    quarantines = [f"{table}_quarantine" for table in (*ingested, "side_tables", "event_references")]
    listed = [*ingested, *quarantines, *(table for table in made if table not in ingested)]
    return {name: {"version": lake.version(name)} for name in listed if lake.exists(name)}


def _ignored_types(deployment: Deployment, facts: RunFacts) -> dict[str, int]:
    """Events by type that no task uses, the most frequent first; the rest together, without a name, comes last."""
    from ctr_pipeline.sources.event_types import UNNAMED, ignored_types

    used = {task.label.event for task in deployment.spec.tasks if task.label.event is not None}
    found = ignored_types(facts.event_types, used)
    named = [kind for kind in found if kind != UNNAMED]
    shown = {kind: found[kind] for kind in named[:MOST_TYPES]}
    rest = sum(found.values()) - sum(shown.values())
    return {**shown, **({UNNAMED: rest} if rest else {})}


def _rows(paths: DataRoot, facts: RunFacts, table: str, first: date, last: date) -> dict[str, Any]:
    import polars as pl

    from ctr_pipeline.lake import Lake

    lake = Lake(paths.lake)
    reasons = (
        lake.scan(f"{table}_quarantine", first=first, last=last).group_by("reason").len().sort("reason").collect()
        if lake.exists(f"{table}_quarantine")
        else pl.DataFrame({"reason": [], "len": []})
    )
    by_reason = {str(reason): int(rows) for reason, rows in reasons.iter_rows()}
    counted, kept = facts.rows[table], 0
    if lake.exists(table):
        kept = int(lake.scan(table, first=first, last=last).select(pl.len()).collect().item())
    # Rows of users who were forgotten since count as those that ingest leaves out.
    ignored = counted["ignored"] + max(0, counted["kept"] - kept)
    return {
        # What the reader counted; that it is all accounted for is what the check rows_conserved proves.
        "in": counted["in"] - ignored,
        "kept": kept,
        "quarantined": sum(by_reason.values()),
        "filtered": counted["filtered"],
        "added": counted["added"],
        "ignored": ignored,
        "reasons": by_reason,
    }
