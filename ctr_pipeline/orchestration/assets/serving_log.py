"""`serving_log` → `skew_report`: what was served each day, and whether it is what training would have made."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.skew import SkewEvidence, cold_rows
from ctr_pipeline.orchestration.fingerprints import TAG, FingerprintInputs
from ctr_pipeline.orchestration.metadata import add_for_run, cell, plots, table
from ctr_pipeline.orchestration.partitions import daily_partitions, partition_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.stages import stage
from ctr_pipeline.orchestration.user_errors import user_errors

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.online.cold_rows import ColdShare
    from ctr_pipeline.online.logged_rows import Fetched
    from ctr_pipeline.online.recomputed_inputs import ReplayTables
    from ctr_pipeline.online.skew_findings import DayReport, LoggedModel

KEPT_DAYS = 30
"""Segments with requests of days that are not materialised are removed after so long."""

RECENT_DAYS = 7
"""Days before with whose impressions served inputs are compared."""

RECENT_ROWS = 5000
"""Impressions of each of them that are looked at."""

MOST_ROWS = 200_000
"""Of a day with more logged rows the requests are thinned evenly to about so many."""

REQUESTS = "requests"
"""Metadata of a day of `skew_report`: how many requests were looked at."""


def serving_log_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The log of served requests, and the skew that it shows."""
    partitions = daily_partitions(deployment)

    @dg.asset(
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="serving",
        kinds={"polars", "deltalake"},
        description="Inputs, scores and model of each logged request, fetched from the files that `ctr serve` writes.",
    )
    def serving_log(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.online.cold_rows import with_cold_rows
        from ctr_pipeline.online.log_records import segments
        from ctr_pipeline.online.logged_rows import fetch_segments, merged_rows, remove_segments
        from ctr_pipeline.orchestration.logged_models import logged_layouts

        days, store = partition_days(context), lake.open()
        with user_errors():
            fetched = fetch_segments(segments(deployment.paths.serving_spool), days)
            rows = merged_rows(_stored(store, days), fetched.rows)
            rows = with_cold_rows(rows, logged_layouts(deployment.paths, set(rows["model_sha"].unique())))
            version = store.replace_days("serving_log", rows, days)
            # After the commit: what is removed is in the table.
            removed = remove_segments(fetched, _counts(store, fetched), time.time() - KEPT_DAYS * 86400)
        for (day,), of_day in rows.group_by("day"):
            context.add_asset_metadata(_logged_metadata(of_day), asset_key="serving_log", partition_key=str(day))
        inputs = FingerprintInputs(deployment=deployment, instance=context.instance, last=days[-1])
        add_for_run(
            context,
            "serving_log",
            {
                "dagster/uri": str(store.root / "serving_log"),
                "rows": rows.height,
                "delta_version": version,
                "segments_read": len(fetched.segments),
                "segments_removed": removed,
                "unread_bytes": fetched.unread_bytes,
            },
        )
        return dg.MaterializeResult(tags={TAG: stage("serving_log").fingerprint(inputs)})

    @dg.asset(
        deps=["serving_log", "impressions", "history"],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=check_specs("skew_report"),
        group_name="serving",
        kinds={"polars", "onnx"},
        description="Scores and inputs of the logged requests computed again, and their distribution beside the training's.",
    )
    def skew_report(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.online.skew_findings import findings_frame

        days, store = partition_days(context), lake.open()
        with user_errors():
            logged_days = set(store.rows_by_day("serving_log")) & set(days) if store.exists("serving_log") else set()
            reports = [_report(deployment, store, day) for day in sorted(logged_days)]
            findings = [finding for report in reports for finding in report.findings]
            version = store.replace_days("skew_report", findings_frame(findings), days)
        for report in reports:
            context.add_asset_metadata(
                _report_metadata(deployment, report), asset_key="skew_report", partition_key=report.day.isoformat()
            )
            context.log.info(f"{report.day}: {report.requests:,} requests, {len(report.findings)} findings")
        inputs = FingerprintInputs(deployment=deployment, instance=context.instance, last=days[-1])
        add_for_run(
            context,
            "skew_report",
            {
                "dagster/uri": str(store.root / "skew_report"),
                "days_with_requests": len(reports),
                "delta_version": version,
            },
        )
        return dg.MaterializeResult(
            tags={TAG: stage("skew_report").fingerprint(inputs)},
            check_results=check_results("skew_report", SkewEvidence(reports)),
        )

    return [serving_log, skew_report]


def _stored(store: "Lake", days: Sequence[date]) -> "pl.DataFrame":
    """The rows of ``days`` that the table has already."""
    import polars as pl

    from ctr_pipeline.online.logged_rows import SERVING_LOG_SCHEMA

    if not store.exists("serving_log"):
        return pl.DataFrame(schema=SERVING_LOG_SCHEMA)
    return store.scan("serving_log", first=min(days), last=max(days)).filter(pl.col("day").is_in(days)).collect()


def _counts(store: "Lake", fetched: "Fetched") -> dict[tuple[str, date], int]:
    """Rows of the table by segment and day, of the other days of the fetched segments."""
    import polars as pl

    others = {day for of in fetched.other_days.values() for day in of}
    if not others:
        return {}
    rows = store.scan("serving_log", first=min(others), last=max(others)).group_by("segment", "day").agg(pl.len())
    return {(segment, day): count for segment, day, count in rows.collect().iter_rows()}


def _report(deployment: Deployment, store: "Lake", day: date) -> "DayReport":
    from ctr_pipeline.online.recomputed_inputs import read_replay_tables, sampled_impressions
    from ctr_pipeline.online.skew_findings import ReplaySources, report_day
    from ctr_pipeline.orchestration.logged_models import logged_models

    spec = deployment.spec
    logged = _thinned(store.scan("serving_log", first=day, last=day).collect())
    models = logged_models(deployment.paths, set(logged["model_sha"].unique()))
    tables = read_replay_tables(spec, store, logged["impression_id"], [day])
    recent: ReplayTables | None = None
    if any(model.training is not None for model in models.values()):
        before = [day - timedelta(days=n) for n in range(RECENT_DAYS, 0, -1)]
        recent = sampled_impressions(spec, store, before, RECENT_ROWS)
    report = report_day(day, logged, ReplaySources(spec=spec, models=models, tables=tables, recent=recent))
    return replace(report, cold=_cold_shares(store, day, models))


def _cold_shares(store: "Lake", day: date, models: "Mapping[str, LoggedModel]") -> "tuple[ColdShare, ...]":
    """Shares of unknown values on the day and those before; nothing of a log that was fetched before it said so."""
    from ctr_pipeline.online.cold_rows import COLD, cold_shares, days_looked_at

    first, last = days_looked_at(day)
    log = store.scan("serving_log", first=first, last=last)
    if COLD not in log.collect_schema():
        return ()
    layouts = {sha: model.bundle.layout for sha, model in models.items()}
    training = {sha: model.training for sha, model in models.items()}
    return cold_shares(log.select("day", "ts", "model_sha", COLD).collect(), day, layouts, training)


def _thinned(rows: "pl.DataFrame") -> "pl.DataFrame":
    """Every so many-th request, whole."""
    import polars as pl

    step = -(-rows.height // MOST_ROWS)
    if step <= 1:
        return rows
    request = pl.struct("segment", "record").rle_id()
    return rows.filter(request % step == 0)


def _logged_metadata(rows: "pl.DataFrame") -> dict[str, Any]:
    from ctr_pipeline.online.skew_plots import requests_plot

    requests = rows.unique(["segment", "record"])
    by_model = requests.group_by("arm", "model_sha").len().sort("len", descending=True)
    return {
        REQUESTS: requests.height,
        "dagster/partition_row_count": rows.height,
        "with_impression_id": int(rows["impression_id"].is_not_null().sum()),
        "models": table({"arm": arm, "model": sha[:12], "requests": count} for arm, sha, count in by_model.iter_rows()),
        **plots({"requests_by_hour": requests_plot(requests["ts"].to_numpy(), requests["arm"].to_list())}),
    }


def _report_metadata(deployment: Deployment, report: "DayReport") -> dict[str, Any]:
    from ctr_pipeline.online.skew_page import skew_page
    from ctr_pipeline.online.skew_plots import report_plots

    images = report_plots(report)
    page = deployment.paths.skew_page(report.day.isoformat())
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(skew_page(report, images), encoding="utf-8")
    return {
        REQUESTS: report.requests,
        "dagster/partition_row_count": len(report.findings),
        "page": dg.MetadataValue.path(str(page)),
        "skew": table(_rows(report)),
        "scores_replayed": report.replayed_scores,
        "largest_score_difference": cell(report.largest_score_difference),
        "rows_recomputed": report.replayed_features,
        "models_absent": len(report.absent_models),
        "new_ids": table(cold_rows(report.cold, report.day)),
        # A number of each day: Dagster's page plots it over the days.
        **{f"new_{one.feature}": one.share(report.day) for one in report.cold},
        **plots(images),
    }


def _rows(report: "DayReport") -> list[dict[str, Any]]:
    from ctr_pipeline.online.skew_page import instant_text

    return [
        {
            "feature": one.feature,
            "kind": f"{one.kind} {one.detail}".strip(),
            "since": instant_text(one.since)[11:],
            "requests": one.requests,
            "share": f"{one.share:.1%}",
            "seen_by": one.comparison,
        }
        for one in report.findings
    ]
