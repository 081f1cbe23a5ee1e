"""The report of a pipeline run: what came in, what the model can do, what the checks said. Documented in docs/report.md."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctr_pipeline.commands.run import FinishedRun
from ctr_pipeline.deployment.settings import PipelineSettings, end_of_day_us, model_spec_hash
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.assets.labels import stored_states
from ctr_pipeline.orchestration.automation.jobs import INGEST, REFERENCES, RETRAIN, TABLES
from ctr_pipeline.orchestration.files import QUALITY_FILE
from ctr_pipeline.orchestration.metadata import newest_metadata

FORMAT = 1
MOST_OFFENDERS, OFFENDERS_SHOWN = 100, 10
"""Keys with implausible labels that the report lists, and that are printed."""


class ReportError(UserError):
    """There is no such report."""


def build_report(
    settings: PipelineSettings, instance: dg.DagsterInstance, runs: Sequence[FinishedRun], first: date, last: date
) -> dict[str, Any]:
    """Collects the report of the days ``first`` to ``last`` from the lake, Dagster and the training folder."""
    from ctr_pipeline.lake import Lake

    training = settings.training_folder(last.isoformat())
    dataset = settings.dataset_folder(last.isoformat())
    lake = Lake(settings.lake_root)
    evaluation = _read(training / "evaluation.json")
    release = _read(training / "release.json")
    result = _read(training / "result.json")
    return {
        "format": FORMAT,
        "spec": {"name": settings.spec.name, "hash": model_spec_hash(settings)},
        "days": {"first": first.isoformat(), "last": last.isoformat()},
        "as_of": datetime.fromtimestamp(end_of_day_us(last) / 1e6, UTC).isoformat(),
        "tables": _tables(settings),
        "rows": {table: _rows(settings, instance, table, first, last) for table in INGEST},
        "labels": stored_states(settings, lake, first, last),
        "split": _read(settings.packed_folder(last.isoformat()) / "manifest.json").get("splits", {}),
        "propensity": _read(dataset / "position_propensity.json"),
        "label_quality": _label_quality(dataset / QUALITY_FILE),
        "metrics": evaluation.get("metrics", {}),
        "checks": _checks(settings, instance),
        "model": {
            "sha256": result.get("model_sha256"),
            "folder": str(training),
            "best_epoch": result.get("best_epoch"),
            "training": {key: result.get(key) for key in ("status", "steps", "seconds", "rows_per_second", "device")},
            "version": release.get("version"),
            "promoted": release.get("promoted"),
            "reasons": release.get("reasons", []),
        },
        "mlflow": _read(training / "run.json"),
        "seconds": _seconds(instance, runs),
        "dagster_runs": [
            {"run_id": run.run_id, "assets": list(run.assets), "first": str(run.first), "last": str(run.last)}
            for run in runs
        ],
    }


def save_report(settings: PipelineSettings, report: dict[str, Any]) -> Path:
    """Writes the report below the data root, where ``ctr report`` finds it."""
    folder = settings.data_root / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report['days']['last']}.json"
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def find_report(run: str, data_root: Path) -> dict[str, Any]:
    """The report that ``run`` names: a file, a day, an MLflow run id, or ``latest``.

    Raises:
        ReportError: there is none; the message lists those that exist.
    """
    if Path(run).is_file():
        try:
            found = _read(Path(run))
        except ValueError as error:
            raise ReportError(f"{run}: not a report of `ctr run`: {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ReportError(f"{run}: not a report of `ctr run` in format {FORMAT}.")
        return found
    files = sorted((data_root / "reports").glob("*.json"), key=lambda file: file.stat().st_mtime)
    if run == "latest" and files:
        return _read(files[-1])
    for file in files:
        if file.stem == run or _read(file).get("mlflow", {}).get("run_id") == run:
            return _read(file)
    known = ", ".join(sorted(file.stem for file in files)) or "none"
    raise ReportError(f"no report {run!r} in {data_root / 'reports'}. Reports there: {known}. Make one with `ctr run`.")


def print_report(report: dict[str, Any], console: Console) -> None:
    """Prints the report for a person."""
    days = report["days"]
    console.print(f"\n[bold]{report['spec']['name']}[/]  {days['first']} to {days['last']}", highlight=False)
    for name, rows in report["rows"].items():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in rows["reasons"].items())
        console.print(
            f"  {name}: {rows['in']:,} rows in, {rows['kept']:,} kept, {rows['quarantined']:,} quarantined"
            + (f" ({reasons})" if reasons else ""),
            highlight=False,
        )
    console.print(_label_table(report))
    console.print(_split_table(report))
    _print_undelivered(report, console)
    console.print(_metric_table(report))
    if report["propensity"].get("positions"):
        console.print(_propensity_table(report))
    for response in report["propensity"].get("responses", []):
        if response["usable"]:
            console.print(
                f"  {response['response']}: effective sample size {response['ess_rows']:.1%} of the rows, "
                f"{response['ess_positives']:.1%} of the outcomes",
                highlight=False,
            )
    _print_label_quality(report.get("label_quality", {}), console)
    _print_checks(report, console)
    model, mlflow = report["model"], report["mlflow"]
    verdict = "champion" if model["promoted"] else "not promoted"
    console.print(f"Model version {model['version']} ({verdict}): {' '.join(model['reasons'])}", highlight=False)
    console.print(f"MLflow run {mlflow.get('run_id')}; files in {model['folder']}", highlight=False, soft_wrap=True)
    if report["seconds"]:
        total = sum(report["seconds"].values())
        slowest = sorted(report["seconds"].items(), key=lambda item: -item[1])[:4]
        listed = ", ".join(f"{asset} {seconds:.1f} s" for asset, seconds in slowest)
        console.print(f"Assets took {total:.0f} s: {listed}, …", highlight=False)
    else:
        console.print("Everything was up to date.")


def _label_table(report: dict[str, Any]) -> Table:
    states = sorted({state for counts in report["labels"].values() for state in counts})
    table = Table("task", *(state.lower() for state in states), title="Labels", title_justify="left")
    for task, counts in report["labels"].items():
        table.add_row(task, *(f"{counts.get(state, 0):,}" for state in states))
    return table


def _split_table(report: dict[str, Any]) -> Table:
    tasks = list(report["labels"])
    table = Table(
        "split", "rows", "first", "last", *(f"{t} positives" for t in tasks), title="Split", title_justify="left"
    )
    for name, split in report["split"].items():
        positives = (
            f"{split['states'][task].get('POSITIVE', 0) + split['states'][task].get('LATE_POSITIVE', 0):,}"
            for task in tasks
        )
        table.add_row(name, f"{split['rows']:,}", split["first"][:16], split["last"][:16], *positives)
    return table


def _print_undelivered(report: dict[str, Any], console: Console) -> None:
    """Says which labels were left out because a log had stopped; nothing where none were."""
    for name, split in report["split"].items():
        found = {task: rows for task, rows in split.get("undelivered", {}).items() if rows}
        if found:
            listed = ", ".join(f"{task} {rows:,}" for task, rows in found.items())
            console.print(
                f"  {name}: {listed} negatives have no label, since a log that stopped may have missed their outcome",
                highlight=False,
            )


def _metric_table(report: dict[str, Any]) -> Table:
    columns = {"auc": "AUC", "ap": "AP", "ne": "NE", "oe": "observed/expected"}
    table = Table(
        "task", "rows", "positives", *columns.values(), title="Test, with 95 % intervals", title_justify="left"
    )
    for task, splits in report["metrics"].items():
        metrics = splits["test"]
        numbers = (_interval(metrics[key]) for key in columns)
        table.add_row(task, f"{metrics['rows']:,}", f"{metrics['positives']:,}", *numbers)
    return table


def _propensity_table(report: dict[str, Any]) -> Table:
    columns = ("response", "position", "examination", "exposure ratio", "weight")
    table = Table(*columns, title="Position propensity, with 95 % intervals", title_justify="left")
    for row in report["propensity"]["positions"]:
        table.add_row(
            row["response"],
            str(row["position"]),
            *(
                f"{row[value]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
                for value, name in (("examination", "examination"), ("exposure_ratio", "exposure"))
            ),
            f"{row['weight']:.3f}",
        )
    return table


def _label_quality(path: Path) -> dict[str, Any]:
    """Verdicts on keys; of those that are flagged the worst."""
    content = _read(path)
    return {**content, "flagged": content.get("flagged", [])[:MOST_OFFENDERS]}


def _print_label_quality(found: dict[str, Any], console: Console) -> None:
    offenders = found.get("flagged", [])[:OFFENDERS_SHOWN]
    if offenders:
        columns = (str(found["key"]), "task", "trials", "outcomes", "rate", "expected", "z", "verdict", "weight")
        table = Table(*columns, title="Implausible outcome rates", title_justify="left")
        for row in offenders:
            expected, z = row["expected_rate"], row["z"]
            table.add_row(
                Text(row["key"]), row["task"], f"{row['trials']:,}", f"{row['positives']:,}", f"{row['rate']:.1%}",
                "–" if expected is None else f"{expected:.1%}", "–" if z is None else f"{z:+.1f}",
                row["verdict"], f"{row['weight']:.2f}",
            )  # fmt: skip
        console.print(table)
    for task in found.get("tasks", []):
        console.print(
            f"  {task['task']}: {task['inflated']} inflated, {task['dropped']} dropped, {task['late']} late of "
            f"{task['judged']:,} judged and {task['keys']:,} known by {found['key']}",
            highlight=False,
        )


def _print_checks(report: dict[str, Any], console: Console) -> None:
    failing = [check for check in report["checks"] if not check["passed"]]
    console.print(f"Checks: {len(report['checks']) - len(failing)} of {len(report['checks'])} passed", highlight=False)
    for check in failing:
        style = "red" if check["severity"] == "ERROR" else "yellow"
        console.print(f"  [{style}]{check['severity']}[/] {check['asset']}.{check['check']}: ", end="", highlight=False)
        console.print(check["description"] or "failed", markup=False, highlight=False, soft_wrap=True)


def _interval(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        if value.get("low") is None or value.get("high") is None:
            return f"{value['value']:.3f}"
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value:.3f}"


def _tables(settings: PipelineSettings) -> dict[str, dict[str, Any]]:
    from ctr_pipeline.lake import Lake

    lake = Lake(settings.lake_root)
    names = [*INGEST, *(f"{table}_quarantine" for table in (*INGEST, REFERENCES)), *TABLES]
    return {name: {"version": lake.version(name)} for name in names if lake.exists(name)}


def _rows(
    settings: PipelineSettings, instance: dg.DagsterInstance, table: str, first: date, last: date
) -> dict[str, Any]:
    import polars as pl

    from ctr_pipeline.lake import Lake

    lake = Lake(settings.lake_root)
    reasons = (
        lake.scan(f"{table}_quarantine", first=first, last=last).group_by("reason").len().sort("reason").collect()
        if lake.exists(f"{table}_quarantine")
        else pl.DataFrame({"reason": [], "len": []})
    )
    by_reason = {str(reason): int(rows) for reason, rows in reasons.iter_rows()}
    days = {day: found for day, found in newest_metadata(instance, table).items() if first <= day <= last}
    kept = int(lake.scan(table, first=first, last=last).select(pl.len()).collect().item())
    # Rows of users who were forgotten since count as those that ingest leaves out.
    erased = sum(int(found.get("rows_kept_day", 0)) for found in days.values()) - kept
    ignored = sum(int(found.get("rows_ignored_day", 0)) for found in days.values()) + max(0, erased)
    return {
        # What the reader counted; that it is all accounted for is what the check rows_conserved proves.
        "in": sum(int(found.get("rows_in_day", 0)) for found in days.values()) - ignored,
        "kept": kept,
        "quarantined": sum(by_reason.values()),
        "ignored": ignored,
        "reasons": by_reason,
    }


def _checks(settings: PipelineSettings, instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """The newest result of each check."""
    from ctr_pipeline.orchestration.build import build_definitions

    keys = sorted(
        build_definitions(settings).resolve_asset_graph().asset_check_keys, key=lambda key: key.to_user_string()
    )
    order = [*INGEST, *TABLES, *RETRAIN]
    found = []
    for key in keys:
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        if not records or records[0].event is None or records[0].event.dagster_event is None:
            continue
        evaluation = records[0].event.dagster_event.asset_check_evaluation_data
        found.append(
            {
                "asset": key.asset_key.to_user_string(),
                "check": key.name,
                "passed": evaluation.passed,
                "severity": evaluation.severity.value,
                "description": evaluation.description,
            }
        )
    return sorted(found, key=lambda check: (order.index(str(check["asset"])), str(check["check"])))


def _seconds(instance: dg.DagsterInstance, runs: Sequence[FinishedRun]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for run in runs:
        for stats in instance.get_run_step_stats(run.run_id):
            if stats.start_time and stats.end_time:
                taken = stats.end_time - stats.start_time
                seconds[stats.step_key] = round(seconds.get(stats.step_key, 0.0) + taken, 3)
    return seconds


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
