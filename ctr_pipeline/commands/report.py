"""The report of a pipeline run: where it is kept and how it is found again. See docs/report.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.report_content import (
    FAILED,
    FORMAT,
    REFUSED,
    splits_of_today,
)
from ctr_pipeline.orchestration.report_pages import write_page

__all__ = [
    "FAILED",
    "FORMAT",
    "REFUSED",
    "ReportError",
    "find_report",
    "save_report",
    "write_page",
]


class ReportError(UserError):
    """There is no such report."""


def save_report(paths: DataRoot, report: dict[str, Any]) -> Path:
    """Writes the report below the data root, where ``ctr report`` finds it, and its page beside it."""
    path = paths.reports / f"{report['days']['last']}.json"
    write_json(path, report)
    write_page(report, path.with_suffix(".html"))
    return path


def find_report(run: str, data_root: Path) -> dict[str, Any]:
    """The report that ``run`` names: a file, a day, an MLflow run id, or ``latest``.

    Raises:
        ReportError: there is none; the message lists those that exist.
    """
    if Path(run).is_file():
        return _read(Path(run))
    paths = DataRoot(data_root)
    files = sorted(paths.reports.glob("*.json"), key=lambda file: file.stat().st_mtime)
    # A training that Dagster's page or schedule launched has no report of `ctr run`.
    failures = sorted(paths.failed_trainings(), key=lambda file: file.stat().st_mtime)
    newest = files[-1:] if run == "latest" else []
    if run == "latest" and failures and (not files or failures[-1].stat().st_mtime > files[-1].stat().st_mtime):
        return _of_failure(failures[-1])
    for file in newest or files:
        if newest or file.stem == run or read_json(file).get("mlflow", {}).get("run_id") == run:
            return _read(file)
    for file in failures:
        if file.parent.name == run:
            return _of_failure(file)
    known = ", ".join(sorted(file.stem for file in files)) or "none"
    raise ReportError(
        f"no report {run!r} in {DataRoot(data_root).reports}. Reports there: {known}. Make one with `ctr run`."
    )


def _of_failure(path: Path) -> dict[str, Any]:
    """The report of a training that failed, from what is kept of it alone."""
    failure = read_json(path)
    outcome = {"status": FAILED, "step": "ranker", "reason": failure["reason"]}
    model = {"version": None, "promoted": False, "reasons": [failure["reason"]], "folder": failure["evidence"]}
    empty = ("rows", "labels", "split", "propensity", "label_quality", "metrics", "floor", "seconds", "tables")
    return {
        "format": FORMAT,
        "spec": {"name": failure["spec"]},
        "days": {"first": failure["day"], "last": failure["day"]},
        "outcome": outcome,
        **{name: {} for name in empty},
        "checks": [],
        "model": model,
        "training_failure": failure,
        "mlflow": failure["mlflow"],
    }


def _read(path: Path) -> dict[str, Any]:
    """The report in a file.

    Raises:
        ReportError: the file holds none, or one of a format that is not known.
    """
    from ctr_pipeline.labels.quality import with_names_of_today

    try:
        found = read_json(path)
    except ValueError as error:
        raise ReportError(f"{path}: not a report of `ctr run`: {error}") from error
    if not isinstance(found, dict) or found.get("format") not in range(1, FORMAT + 1):
        raise ReportError(f"{path}: not a report of `ctr run` in format 1 to {FORMAT}.")
    quality = with_names_of_today(found.get("label_quality", {}))
    controls = _controls(found["model"])
    return {**found, **controls, "format": FORMAT, "split": splits_of_today(found["split"]), "label_quality": quality}


def _controls(model: Mapping[str, Any]) -> dict[str, Any]:
    """``controls``: the tasks beside their single-task controls, where these were trained of this very model."""
    digest, folder = model.get("sha256"), model.get("folder")
    content = read_json(Path(folder) / "controls.json") if digest and folder else {}
    return {"controls": content} if content and content.get("model_sha256") == digest else {}
