"""`examples` → `vocabulary` → `training_dataset`: a view, what is fitted on its training stretch, packed arrays."""

import shutil
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.settings import PipelineSettings, end_of_day_us
from ctr_pipeline.orchestration.automation.jobs import INGEST, REFERENCES
from ctr_pipeline.orchestration.automation.sensors import arrivals, days_of, labels_seen, stale_label_days
from ctr_pipeline.orchestration.checks.maturity import check_test_maturity, test_maturity_spec
from ctr_pipeline.orchestration.files import QUALITY_FILE, read_json, write_json
from ctr_pipeline.orchestration.fingerprints import (
    CONTRACT_TAG,
    TAG,
    contract_fingerprint,
    newest_tags,
    retrain_fingerprint,
)
from ctr_pipeline.orchestration.metadata import state_rows, table
from ctr_pipeline.orchestration.partitions import daily_partitions, past_days, training_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.user_errors import require, user_errors
from ctr_pipeline.spec.fields import DAY_US

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from ctr_pipeline.datasets import SplitBounds, Tables
    from ctr_pipeline.features import Layout
    from ctr_pipeline.lake import Lake

EXAMPLES_FILE = "examples.json"
PROPENSITY_FILE = "position_propensity.json"
FITTED = "fitted"
"""Folder of what was fitted on the training stretch, beside the packed arrays."""


def dataset_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """From tables to memory-mapped arrays; a partition is the last day of a retrain."""
    partitions = daily_partitions(settings)
    past = past_days(training_days(settings))

    @dg.asset(
        deps=[dg.AssetDep(name, partition_mapping=past) for name in ("impressions", "labels", "history")],
        partitions_def=partitions,
        group_name="dataset",
        kinds={"polars"},
        description="A view: table versions, the instant as of which labels are seen, and where each split begins.",
    )
    def examples(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        import polars as pl

        from ctr_pipeline.datasets import split_bounds, split_watermarks
        from ctr_pipeline.datasets.split import iso
        from ctr_pipeline.labels import log_watermarks

        day = context.partition_key
        last = context.partition_time_window.start.date()
        as_of = end_of_day_us(last)
        _require_days(context, settings, last)
        store = lake.open()
        versions = {name: store.version(name) for name in ("impressions", "outcome_events", "labels", "history")}
        with user_errors():
            shown = store.scan("impressions", versions["impressions"], settings.first_day, last)
            ts = shown.select(pl.col("ts")).collect()["ts"].to_numpy()
            bounds = split_bounds(settings.spec, ts, as_of)
            events = store.scan("outcome_events", versions["outcome_events"], last=last)
            watermarks = split_watermarks(settings.spec, bounds, events)
            delivered = log_watermarks(events, as_of)
        shutil.rmtree(settings.dataset_folder(day), ignore_errors=True)
        write_json(
            settings.dataset_folder(day) / EXAMPLES_FILE,
            {
                "as_of": as_of,
                "versions": versions,
                "bounds": bounds.to_json(),
                "watermarks": watermarks,
                "stopped_logs": {log: iso(instant) for log, instant in delivered.items() if instant < as_of},
            },
        )
        return dg.MaterializeResult(
            metadata={
                "impressions": len(ts),
                "bounds": table({"instant": name, "utc": text} for name, text in bounds.describe().items()),
                **{f"delta_version/{name}": version for name, version in versions.items() if version is not None},
            },
            tags={TAG: retrain_fingerprint(settings, context.instance, date.fromisoformat(day))},
        )

    @dg.asset(
        deps=["examples"],
        partitions_def=partitions,
        group_name="dataset",
        kinds={"polars"},
        description="Vocabularies, fill values, means and deviations, fitted on the training stretch only.",
    )
    def vocabulary(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.datasets import fit_vocabulary

        day = context.partition_key
        with user_errors():
            bounds, tables = view_of(settings, lake.open(), day)
            layout, words = fit_vocabulary(settings.spec, bounds, tables.impressions, tables.history)
        folder = settings.dataset_folder(day) / FITTED
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "layout.json").write_text(layout.to_json(), encoding="utf-8")
        words.write_parquet(folder / "vocabulary.parquet", compression="zstd", statistics=False)
        return dg.MaterializeResult(
            metadata={
                "embedding_rows": sum(column.rows for column in layout.ids),
                "ids": table({"feature": c.name, "rows": c.rows, "width": c.dim} for c in layout.ids),
                "numbers": table(
                    {"feature": c.name, "group": c.group, "transform": c.transform, "fill": c.fill, "mean": c.mean,
                     "deviation": c.std} for c in layout.numeric
                ),
            },
            tags={TAG: retrain_fingerprint(settings, context.instance, date.fromisoformat(day))},
        )  # fmt: skip

    @dg.asset(
        deps=["examples", "vocabulary", "position_propensity", "advertiser_quality"],
        partitions_def=partitions,
        check_specs=[test_maturity_spec("training_dataset")],
        group_name="dataset",
        kinds={"numpy"},
        description="Memory-mapped arrays of train, validation, calibration and test, with weights.",
    )
    def training_dataset(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        import polars as pl

        from ctr_pipeline.datasets import pack_dataset
        from ctr_pipeline.features import Layout
        from ctr_pipeline.labels import QualityTable
        from ctr_pipeline.propensity import PropensityTable

        day = context.partition_key
        folder = settings.dataset_folder(day)
        packed = settings.packed_folder(day)
        view = read_json(folder / EXAMPLES_FILE, "examples")
        weights, quality = folder / PROPENSITY_FILE, folder / QUALITY_FILE
        shutil.rmtree(packed, ignore_errors=True)
        with user_errors():
            bounds, tables = view_of(settings, lake.open(), day)
            dataset = pack_dataset(
                packed,
                settings.spec,
                bounds,
                tables,
                Layout.from_json((folder / FITTED / "layout.json").read_text(encoding="utf-8")),
                pl.read_parquet(folder / FITTED / "vocabulary.parquet"),
                PropensityTable.from_json(weights.read_text(encoding="utf-8")) if weights.is_file() else None,
                {name: version for name, version in view["versions"].items() if version is not None},
                QualityTable.from_json(quality.read_text(encoding="utf-8")) if quality.is_file() else None,
                watermarks_of(settings, day),
            )
        check = check_test_maturity(
            "training_dataset",
            _delivered_share(settings, watermarks_of(settings, day), dataset.splits["test"].ts),
            settings.spec.quality.min_mature_test_share,
            view.get("stopped_logs", {}),
        )
        if not check.passed:
            shutil.rmtree(packed)
        yield from require(check)
        manifest = dataset.manifest()
        splits: dict[str, Any] = manifest["splits"]
        yield dg.MaterializeResult(
            metadata={
                "splits": table(
                    {"split": name, "rows": found["rows"], "first": found["first"], "last": found["last"]}
                    for name, found in splits.items()
                ),
                "test_labels": table(state_rows(splits["test"]["states"])),
                "train_labels": table(state_rows(splits["train"]["states"])),
                "undelivered": table({"split": name, **found["undelivered"]} for name, found in splits.items()),
                **{f"rows/{name}": found["rows"] for name, found in splits.items()},
                "bytes": sum(path.stat().st_size for path in packed.rglob("*") if path.is_file()),
                "files": dg.MetadataValue.path(str(packed)),
            },
            tags={TAG: retrain_fingerprint(settings, context.instance, date.fromisoformat(day))},
            check_results=[check],
        )

    return [examples, vocabulary, training_dataset]


def test_rows_for(
    settings: PipelineSettings, lake: "Lake", day: str, layout: "Layout", vocabulary: Path
) -> "tuple[NDArray[np.float32], NDArray[np.int32]]":
    """The test rows of ``day`` as another model's inputs, in the order of the packed ones.

    Raises:
        KeyError: the other model needs a feature that the spec does not have.
    """
    import polars as pl

    from ctr_pipeline.datasets import build_examples
    from ctr_pipeline.features import encode_ids, numeric_matrix

    spec = settings.spec
    known = set(spec.features.inputs)
    for name in (*(column.name for column in layout.numeric), *(column.name for column in layout.ids)):
        if name not in known:
            raise KeyError(name)
    bounds, tables = view_of(settings, lake, day)
    start, end = bounds.stretches["test"]

    def within(frame: "pl.LazyFrame") -> "pl.LazyFrame":
        return frame.filter(pl.col("ts").is_between(start, end, closed="left"))

    rows = (
        build_examples(spec, within(tables.impressions), within(tables.labels), tables.history, bounds.as_of)
        .sort("ts", "impression_id")
        .collect()
    )
    return numeric_matrix(layout, rows), encode_ids(layout, pl.read_parquet(vocabulary), rows)


def view_of(settings: PipelineSettings, lake: "Lake", day: str) -> "tuple[SplitBounds, Tables]":
    """The split and the tables, at the versions that `examples` of ``day`` recorded."""
    from ctr_pipeline.datasets import SplitBounds, Tables

    content = read_json(settings.dataset_folder(day) / EXAMPLES_FILE, "examples")
    versions, last = content["versions"], date.fromisoformat(day)
    return SplitBounds.from_json(content["bounds"]), Tables(
        impressions=lake.scan("impressions", versions["impressions"], settings.first_day, last),
        labels=lake.scan("labels", versions["labels"], settings.first_day, last),
        history=lake.scan("history", versions["history"], settings.first_day, last),
    )


def watermarks_of(settings: PipelineSettings, day: str) -> dict[str, dict[str, int]]:
    """By split and task, up to when outcomes had been delivered, as `examples` of ``day`` recorded it.

    Empty for a run of before they were recorded, which `ctr repeat` makes again as it was.
    """
    found: dict[str, dict[str, int]] = read_json(settings.dataset_folder(day) / EXAMPLES_FILE, "examples").get(
        "watermarks", {}
    )
    return found


def _delivered_share(
    settings: PipelineSettings, watermarks: Mapping[str, Mapping[str, int]], ts: "NDArray[np.int64]"
) -> float:
    """Share of test rows and tasks whose window closed before the watermark of the task's logs.

    The split sees to it that every window is closed by the clock; this sees whether the logs kept up with the clock.
    """
    if "test" not in watermarks:
        return 1.0
    tasks = settings.spec.tasks
    closing = [watermarks["test"][task.name] - settings.spec.maturity(task.name) for task in tasks]
    return float(sum((ts <= instant).mean() for instant in closing) / len(closing))


def _require_days(context: dg.AssetExecutionContext, settings: PipelineSettings, last: date) -> None:
    """Refuses a retrain whose tables have holes, were read in different ways, or whose labels miss arrivals.

    Raises:
        dagster.Failure: names the days and the job to run.
    """
    instance = context.instance
    wanted = {settings.first_day + timedelta(days=n) for n in range((last - settings.first_day).days + 1)}
    jobs = dict.fromkeys((*INGEST, REFERENCES, "history"), "daily_ingest")
    for asset, job in {**jobs, "labels": "label_refresh"}.items():
        _refuse(wanted - days_of(instance, asset, settings), f"{asset} is absent", f"run {job} of those days first")
    contract = contract_fingerprint(settings)
    for asset in INGEST:
        found = newest_tags(instance, asset, CONTRACT_TAG)
        _refuse(
            {day for day in wanted if found.get(day) != contract},
            f"{asset} was read under another spec or another key of the hashes",
            f"read those days again: ctr run without --from, or {jobs[asset]} of those days",
        )
    horizon = -(-settings.spec.longest_maturity // DAY_US)
    arrived = {day: version for day, version in arrivals(instance, settings).items() if day <= last}
    _refuse(
        stale_label_days(wanted, labels_seen(instance), arrived, last, horizon),
        f"labels have not seen all that arrived up to {last}",
        "run label_refresh of those days, or wait for the sensor late_labels",
    )


def _refuse(days: set[date], found: str, remedy: str) -> None:
    if days:
        more = f" and {len(days) - 1} more days" if len(days) > 1 else ""
        raise dg.Failure(f"{found} for {min(days)}{more}: {remedy}.", allow_retries=False)
