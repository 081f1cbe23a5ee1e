"""The report of a retrain as a page: what it is made of, when it is written, and the way to it from Dagster."""

import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles, TrackedRun
from ctr_pipeline.orchestration.checks import refused
from ctr_pipeline.orchestration.report_content import REFUSED, build_report
from ctr_pipeline.orchestration.resources import TrackingResource
from ctr_pipeline.orchestration.run_facts import collect_facts
from ctr_pipeline.orchestration.stages import names

if TYPE_CHECKING:
    from ctr_pipeline.evaluation.report_figures import ReportFiles
    from ctr_pipeline.lake import Lake

SECTIONS = {
    "evaluation.observed_over_expected": "calibration",
    "evaluation.better_than_base_rate": "metrics",
    "evaluation.better_on_validation": "metrics",
    "evaluation.better_than_position": "metrics",
    "evaluation.no_earlier_errors": "checks",
    "champion.promotion_floor": "checks",
}
"""Section of the page that shows more of what a check found."""
OTHER_SECTION = {"evaluation": "metrics", "champion": "change", "attribution": "cause"}
"""Section for the other checks of an asset."""


def report_files(report: Mapping[str, Any], page: Path) -> "ReportFiles":
    """What the folder of a report's retrain holds beside its figures; nothing where that is gone, or of another model.

    Args:
        report: The report.
        page: Where its page is written: the address of the page about the causes is relative to that.
    """
    from ctr_pipeline.evaluation.report_figures import ReportFiles
    from ctr_pipeline.labels.outcome_delays import delays_from_json

    model = report.get("model") or {}
    digest, training = model.get("sha256"), Path(model.get("folder") or "")
    if not digest or read_json(training / "result.json").get("model_sha256") != digest:
        return ReportFiles()
    paths = RetrainPaths(training.parents[1] / "datasets" / training.name, training)
    release = read_json(paths.release)
    cause = paths.attribution_page
    return ReportFiles(
        images={path.stem: path.read_bytes() for path in sorted(paths.plots.glob("*.png"))},
        delays=delays_from_json(read_json(paths.delays)),
        provenance=read_json(paths.provenance),
        release=release if model.get("version") and release.get("version") == model["version"] else {},
        attribution=read_json(paths.attribution),
        attribution_page=quote(Path(os.path.relpath(cause, page.resolve().parent)).as_posix())
        if cause.is_file()
        else "",
    )


def write_page(report: Mapping[str, Any], page: Path) -> None:
    """Writes the page of a report."""
    from ctr_pipeline.evaluation.report_page import report_page

    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(report_page(report, report_files(report, page)), encoding="utf-8")


def publish_page(
    deployment: Deployment,
    instance: dg.DagsterInstance,
    tracking: TrackingResource,
    day: str,
    made: str,
    results: Sequence[dg.AssetCheckResult] = (),
) -> None:
    """Writes the page of the retrain of ``day`` with what is known by now, and keeps it among the files of its MLflow run.

    Args:
        deployment: The deployment.
        instance: Holds the event log.
        tracking: MLflow.
        day: Partition, YYYY-MM-DD.
        made: The asset that was made last.
        results: Results of its checks, which the event log does not have yet.
    """
    paths = deployment.paths.retrain(day)
    facts = collect_facts(instance, [], deployment.first_day, date.fromisoformat(day))
    report = build_report(deployment, facts, deployment.first_day, date.fromisoformat(day), until=made)
    order = names()
    known = order[: order.index(made) + 1]
    own = [_check(result) for result in results]
    named = {(check["asset"], check["check"]) for check in own}
    report["checks"] = [
        *(c for c in report["checks"] if c["asset"] in known and (c["asset"], c["check"]) not in named),
        *own,
    ]
    if wrong := refused(made, list(results)):
        report["outcome"] = {"status": REFUSED, "step": made, "reason": " ".join(map(_found, wrong))}
        report["model"]["reasons"] = []
    write_json(paths.report, report)
    refresh_page(tracking, paths)


def refresh_page(tracking: TrackingResource, paths: RetrainPaths) -> None:
    """Writes the page of a retrain again with what its folder holds now, such as the causes; not before it was published."""
    report = read_json(paths.report)
    if report:
        write_page(report, paths.page)
        tracking.log(RetrainFiles(paths).mlflow_run().run_id, {}, [("", paths.page)])


def _found(result: dg.AssetCheckResult) -> str:
    return f"{result.check_name}: {result.description or 'it failed.'}"


def _check(result: dg.AssetCheckResult) -> dict[str, Any]:
    return {
        "asset": result.asset_key.to_user_string() if result.asset_key else "",
        "check": result.check_name,
        "passed": result.passed,
        "severity": result.severity.value,
        "description": result.description,
    }


def page_metadata(paths: RetrainPaths, run: TrackedRun, section: str = "") -> dict[str, Any]:
    """The way to the page: where its file lies and, where MLflow's page is known, a link that shows it.

    Args:
        paths: Of the retrain.
        run: Its MLflow run.
        section: Section of the page.
    """
    file = {"report_file": dg.MetadataValue.path(f"{paths.page}{f'#{section}' if section else ''}")}
    return file | ({"report": dg.MetadataValue.url(artifact_url(run, paths.page.name))} if run.url else {})


def page_link(paths: RetrainPaths, run: TrackedRun) -> dict[str, Any]:
    """One way to the page, in few letters: a long one would leave the tables below it no room."""
    if not run.url:
        return {"report": dg.MetadataValue.path(str(paths.page))}
    return {"report": dg.MetadataValue.md(f"[open the report]({artifact_url(run, paths.page.name)})")}


def artifact_url(run: TrackedRun, file: str) -> str:
    """Address at which MLflow's page shows a file of a run."""
    page, _, view = run.url.partition("?")
    return f"{page}/artifacts/{quote(file)}{f'?{view}' if view else ''}"


def with_page(
    asset: str, results: Sequence[dg.AssetCheckResult], paths: RetrainPaths, run: TrackedRun
) -> list[dg.AssetCheckResult]:
    """The results of an asset's checks, each with the way to the section of the page that shows more of it."""
    return [
        result._replace(
            metadata={
                **(result.metadata or {}),
                **page_metadata(paths, run, SECTIONS.get(f"{asset}.{result.check_name}", OTHER_SECTION[asset])),
            }
        )
        for result in results
    ]


def write_delays(deployment: Deployment, lake: "Lake", day: str) -> None:
    """Keeps how long the outcomes take, of the days and the version of the labels that the retrain of ``day`` read."""
    from ctr_pipeline.labels import label_days
    from ctr_pipeline.labels.outcome_delays import outcome_delays

    paths, spec = deployment.paths.retrain(day), deployment.spec
    view = RetrainFiles(paths).examples()
    labels = lake.scan("labels", view.versions["labels"], deployment.first_day, date.fromisoformat(day))
    found = outcome_delays(labels, label_days(labels), spec.tasks, view.as_of, spec.split.ingest_lag)
    write_json(paths.delays, {task: of.to_json() for task, of in found.items()})
