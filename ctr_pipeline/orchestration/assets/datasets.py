"""`examples` → `vocabulary` → `training_dataset`: a view, what is fitted on its training rows, packed arrays."""

import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.replaced_retrains import set_aside_dataset
from ctr_pipeline.deployment.retrain_files import ExamplesView, RetrainFiles
from ctr_pipeline.orchestration.absent_outcomes import require_outcomes
from ctr_pipeline.orchestration.checks import check_results, check_specs, refused
from ctr_pipeline.orchestration.checks.maturity import MaturityEvidence
from ctr_pipeline.orchestration.fingerprints import CONTRACT_TAG, TAG, FingerprintInputs, contract_fingerprint
from ctr_pipeline.orchestration.metadata import state_rows, table
from ctr_pipeline.orchestration.partitions import daily_partitions, early_days, past_days, training_days
from ctr_pipeline.orchestration.records import arrivals, days_of, labels_seen, newest_tags, stale_label_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.stages import INGEST_JOB, INGEST_STEP, LABEL_JOB, names, stage
from ctr_pipeline.orchestration.user_errors import require, user_errors
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US

if TYPE_CHECKING:
    from ctr_pipeline.datasets import PackedDataset, Tables
    from ctr_pipeline.lake import Lake

VIEWED = ("impressions", "outcome_events", "labels", "history")
"""Tables whose versions a view records."""


def dataset_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """From tables to memory-mapped arrays; a partition is the last day of a retrain."""
    partitions, spec = daily_partitions(deployment), deployment.spec
    past = past_days(training_days(spec))

    @dg.asset(
        deps=[dg.AssetDep(name, partition_mapping=past) for name in ("impressions", "labels", "history")],
        partitions_def=partitions,
        group_name="dataset",
        kinds={"polars"},
        description="A view: table versions, the instant as of which labels are seen, and where each split begins.",
    )
    def examples(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        last = context.partition_time_window.start.date()
        _require_days(context.instance, deployment, last)
        paths = deployment.paths.retrain(context.partition_key)
        with user_errors():
            require_outcomes(context.instance, deployment, lake.open(), last)
            view, impressions = _view(spec, lake.open(), deployment.first_day, last)
        set_aside_dataset(deployment.paths, context.partition_key)
        shutil.rmtree(paths.dataset, ignore_errors=True)
        RetrainFiles(paths).write_examples(view)
        return dg.MaterializeResult(
            metadata={
                "impressions": impressions,
                "bounds": table(_parts_by_task(view)),
                **{f"delta_version/{name}": version for name, version in view.existing_versions.items()},
            },
            tags=retrain_tags(deployment, context),
        )

    @dg.asset(
        deps=["examples"],
        partitions_def=partitions,
        group_name="dataset",
        kinds={"polars"},
        description="Vocabularies, fill values, means and deviations, fitted on the training rows only.",
    )
    def vocabulary(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.datasets import fit_vocabulary

        files = RetrainFiles(deployment.paths.retrain(context.partition_key))
        with user_errors():
            view, tables = files.examples(), tables_of(deployment, lake.open(), context.partition_key)
            layout, ids = fit_vocabulary(spec, view.bounds, tables.impressions, tables.history)
        files.write_vocabulary(layout, ids)
        return dg.MaterializeResult(
            metadata={
                "embedding_rows": sum(column.rows for column in layout.ids),
                "ids": table({"feature": c.name, "rows": c.rows, "width": c.dim} for c in layout.ids),
                "numbers": table(
                    {"feature": c.name, "fill": c.fill, "mean": c.mean, "deviation": c.std}
                    for c in layout.numeric
                ),
            },
            tags=retrain_tags(deployment, context),
        )  # fmt: skip

    @dg.asset(
        deps=["examples", "vocabulary", "position_propensity", "advertiser_quality"],
        partitions_def=partitions,
        check_specs=check_specs("training_dataset"),
        group_name="dataset",
        kinds={"numpy"},
        description="Memory-mapped arrays of train, validation, calibration and test, with weights.",
    )
    def training_dataset(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from ctr_pipeline.datasets.class_counts import one_class_parts
        from ctr_pipeline.datasets.view import delivered_share

        paths = deployment.paths.retrain(context.partition_key)
        view = RetrainFiles(paths).examples()
        with user_errors():
            dataset = _pack(spec, paths, view, tables_of(deployment, lake.open(), context.partition_key))
        share = delivered_share(spec, view.watermarks, dataset.splits["test"].ts)
        one_class = one_class_parts(dataset, [task.name for task in spec.tasks])
        evidence = MaturityEvidence(share, spec.quality.min_mature_test_share, view.stopped_logs, one_class)
        checks = check_results("training_dataset", evidence)
        if refused("training_dataset", checks):
            shutil.rmtree(paths.packed)
        yield from require("training_dataset", checks)
        yield dg.MaterializeResult(
            metadata=_dataset_metadata(dataset, paths), tags=retrain_tags(deployment, context), check_results=checks
        )

    return [examples, vocabulary, training_dataset]


def retrain_tags(deployment: Deployment, context: dg.AssetExecutionContext) -> dict[str, str]:
    """Tags of the materialisation of an asset of a retrain: its fingerprint."""
    day = date.fromisoformat(context.partition_key)
    inputs = FingerprintInputs(deployment=deployment, instance=context.instance, last=day)
    return {TAG: stage(context.asset_key.to_user_string()).fingerprint(inputs)}


def tables_of(deployment: Deployment, lake: "Lake", day: str) -> "Tables":
    """The tables at the versions that `examples` of ``day`` recorded."""
    from ctr_pipeline.datasets.view import read_tables

    versions = RetrainFiles(deployment.paths.retrain(day)).examples().versions
    return read_tables(lake, versions, deployment.first_day, date.fromisoformat(day))


def _view(spec: Spec, lake: "Lake", first: date, last: date) -> tuple[ExamplesView, int]:
    """The view of the tables as of the end of ``last``, and the number of its impressions."""
    from ctr_pipeline.datasets import split_bounds, split_watermarks
    from ctr_pipeline.datasets.split_parts import iso
    from ctr_pipeline.datasets.view import scan_for_uses
    from ctr_pipeline.labels import log_watermarks

    as_of = end_of_day_us(last)
    versions = {name: lake.version(name) for name in VIEWED}
    ts = lake.scan("impressions", versions["impressions"], first, last).select("ts").collect()["ts"].to_numpy()
    bounds = split_bounds(spec, ts, as_of)
    events = scan_for_uses(lake, "outcome_events", versions["outcome_events"], None, last)
    delivered = log_watermarks(events, as_of)
    view = ExamplesView(
        as_of=as_of,
        versions=versions,
        bounds=bounds,
        watermarks=split_watermarks(spec, bounds, events),
        stopped_logs={log: iso(instant) for log, instant in delivered.items() if instant < as_of},
    )
    return view, len(ts)


def _parts_by_task(view: ExamplesView) -> Iterator[dict[str, str]]:
    from ctr_pipeline.datasets.split_parts import iso

    for task in view.bounds.tasks:
        for split in view.bounds.splits:
            start, end = (_minute(iso(instant)) for instant in view.bounds.interval(split, task))
            yield {"task": task, "split": split, "from": start, "before": end}


def _minute(instant: str) -> str:
    """ISO 8601 text to the minute, as short as a cell needs it."""
    return instant[:16].replace("T", " ")


def _pack(spec: Spec, paths: RetrainPaths, view: ExamplesView, tables: "Tables") -> "PackedDataset":
    from ctr_pipeline.datasets import pack_dataset

    files = RetrainFiles(paths)
    shutil.rmtree(paths.packed, ignore_errors=True)
    return pack_dataset(
        paths.packed,
        spec,
        view.bounds,
        tables,
        files.layout(),
        files.vocabulary(),
        files.propensity() if paths.propensity.is_file() else None,
        view.existing_versions,
        files.advertiser_quality() if paths.advertiser_quality.is_file() else None,
        view.watermarks,
    )


def _dataset_metadata(dataset: "PackedDataset", paths: RetrainPaths) -> dict[str, Any]:
    splits: dict[str, Any] = dataset.manifest()["splits"]
    return {
        "splits": table(
            {
                "split": name,
                "rows": found["rows"],
                **{end: _minute(found[end]) for end in ("first", "last")},
            }
            for name, found in splits.items()
        ),
        "tasks": table(
            {"split": name, "task": task, **counts, "start": _minute(counts["start"]), "end": _minute(counts["end"])}
            for name, found in splits.items()
            for task, counts in found["tasks"].items()
        ),
        "test_labels": table(state_rows(splits["test"]["states"])),
        "train_labels": table(state_rows(splits["train"]["states"])),
        "awaiting_data": table({"split": name, **found["awaiting_data"]} for name, found in splits.items()),
        **{f"rows/{name}": found["rows"] for name, found in splits.items()},
        "bytes": sum(path.stat().st_size for path in paths.packed.rglob("*") if path.is_file()),
        "files": dg.MetadataValue.path(str(paths.packed)),
    }


def _require_days(instance: dg.DagsterInstance, deployment: Deployment, last: date) -> None:
    """Refuses a retrain whose tables have holes, were read in different ways, or whose labels miss arrivals.

    Raises:
        dagster.Failure: names the days and the job to run.
    """
    wanted = {deployment.first_day + timedelta(days=n) for n in range((last - deployment.first_day).days + 1)}
    ingested = names(step=INGEST_STEP)
    for asset in (*ingested, "event_references", "history", "labels"):
        absent = wanted - days_of(instance, asset, deployment)
        _refuse(absent, f"{asset} is absent", f"run {stage(asset).job} of those days first")
    contract = contract_fingerprint(deployment)
    for asset in ingested:
        found = newest_tags(instance, asset, CONTRACT_TAG)
        _refuse(
            {day for day in wanted if found.get(day) != contract},
            f"{asset} was read under another spec or another key of the hashes",
            f"read those days again: ctr run without --from, or {INGEST_JOB} of those days",
        )
    horizon = -(-deployment.spec.longest_maturity // DAY_US)
    arrived = {day: version for day, version in arrivals(instance, deployment).items() if day <= last}
    _refuse(
        stale_label_days(wanted, labels_seen(instance), arrived, last, horizon, early_days(deployment.spec).days),
        f"labels have not seen all that arrived up to {last}",
        f"run {LABEL_JOB} of those days, or wait for the sensor late_labels",
    )


def _refuse(days: set[date], found: str, remedy: str) -> None:
    if days:
        more = f" and {len(days) - 1} more days" if len(days) > 1 else ""
        raise dg.Failure(f"{found} for {min(days)}{more}: {remedy}.", allow_retries=False)
