"""`serving_bundle` → `champion`: what is served, and whether it may take over."""

import shutil
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.key import key_fingerprint
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import Release, RetrainFiles
from ctr_pipeline.orchestration.assets.champion_comparison import (
    compare_models,
    decay_of_champion,
    promotion_rules,
    recorded,
)
from ctr_pipeline.orchestration.assets.datasets import retrain_tags, tables_of
from ctr_pipeline.orchestration.assets.training import start_model
from ctr_pipeline.orchestration.champion_scores import BUNDLE
from ctr_pipeline.orchestration.checks import check_results, check_specs, refused
from ctr_pipeline.orchestration.checks.model_quality import BundleEvidence, StoredEmbeddings
from ctr_pipeline.orchestration.checks.promotion import PromotionEvidence
from ctr_pipeline.orchestration.gates import passed_text, refusal_reasons
from ctr_pipeline.orchestration.logged_models import PROFILE_FILE
from ctr_pipeline.orchestration.metadata import DIGEST_SHOWN, cell
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.report_pages import page_link, publish_page, with_page
from ctr_pipeline.orchestration.resources import LakeResource, TrackingResource
from ctr_pipeline.orchestration.resources.tracking import ModelVersion
from ctr_pipeline.orchestration.user_errors import require, user_errors
from ctr_pipeline.spec import Spec

if TYPE_CHECKING:
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.evaluation import PromotionDecision
    from ctr_pipeline.serving import Bundle
    from ctr_pipeline.serving.latency import Latency
    from ctr_pipeline.serving.parity import Parity

KEY_TAG = "key.fingerprint"
"""Tag of a model version: the vocabularies of two models under different keys have no id in common."""

LONGEST_TAG = 5000
"""MLflow keeps no longer tags of versions."""

PASSED_TAG = "promotion.passed"
"""Tag of a model version: whether it was found not to be worse than the champion of then."""

COMPARED_TAG = "promotion.reasons"
"""Tag of a model version: what the comparison with the champion of then found."""

PARITY_ROWS = 2000
"""Test rows on which the exported graph is compared with the trained model."""


def release_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The exported model, and the promotion."""
    partitions, spec = daily_partitions(deployment), deployment.spec

    @dg.asset(
        # Nothing is exported of a model that the evaluation refuses.
        deps=["calibrated_ranker", "vocabulary", "training_dataset", "evaluation"],
        partitions_def=partitions,
        check_specs=check_specs("serving_bundle"),
        group_name="release",
        kinds={"onnx"},
        description="ONNX graph with transforms and calibration inside, vocabulary, spec and golden rows.",
    )
    def serving_bundle(
        context: dg.AssetExecutionContext, tracking: TrackingResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        paths = deployment.paths.retrain(context.partition_key)
        with user_errors():
            run = RetrainFiles(paths).mlflow_run()
            # An evaluation that refused its model is made: a later run begins here.
            if broken := refusal_reasons(spec, paths, context.instance, "serving_bundle"):
                raise dg.Failure(f"The model must not be served. {' '.join(broken)}", allow_retries=False)
            bundle, parity, latency = _export(spec, paths)
        differences = parity.passed, parity.logit, parity.probability, parity.batch
        serving = spec.serving
        stored = StoredEmbeddings(serving.embedding_storage, parity.storage, serving.max_storage_difference)
        evidence = BundleEvidence(*differences, latency, serving.budget_ms, stored)
        checks = check_results("serving_bundle", evidence)
        if refused("serving_bundle", checks):
            shutil.rmtree(paths.bundle)
            tracking.fail_model(run.run_id)
        yield from require("serving_bundle", checks)
        measured = {
            "export/max_logit_difference": parity.logit,
            "export/max_storage_difference": parity.storage,
            "export/latency_p99_ms": latency.p99,
        }
        tracking.log(run.run_id, measured, [])
        if not tracking.has_model(run.run_id):
            start_model(tracking, run.run_id, spec, context)
        tracking.finish_model(run.run_id, paths.bundle, bundle.inputs, dict.fromkeys(bundle.tasks, "double"))
        yield dg.MaterializeResult(
            metadata={
                "bundle": dg.MetadataValue.path(str(paths.bundle)),
                "bundle_sha256": bundle.sha256[:DIGEST_SHOWN],
                "bundle_bytes": sum(path.stat().st_size for path in paths.bundle.iterdir()),
                "parity_rows": parity.rows,
                "max_logit_difference": cell(parity.logit),
                "max_probability_difference": cell(parity.probability),
                "max_batch_difference": cell(parity.batch),
                "max_storage_difference": cell(parity.storage),
                "latency_p99_ms": cell(latency.p99),
                "mlflow_run_id": run.run_id,
            },
            tags=retrain_tags(deployment, context),
            check_results=checks,
        )

    @dg.asset(
        deps=["serving_bundle", "evaluation"],
        partitions_def=partitions,
        check_specs=check_specs("champion"),
        group_name="release",
        kinds={"mlflow"},
        description="Registers the model, compares it with the champion on the same test rows, moves the alias.",
    )
    def champion(
        context: dg.AssetExecutionContext, lake: LakeResource, tracking: TrackingResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from ctr_pipeline.evaluation import stops

        paths = deployment.paths.retrain(context.partition_key)
        files = RetrainFiles(paths)
        with user_errors():
            run = files.mlflow_run()
            broken = refusal_reasons(spec, paths, context.instance, "champion")
            if broken:
                paths.release.unlink(missing_ok=True)
                tracking.tag(run.run_id, {"promoted": "false", "promotion.refused": " ".join(broken)})
            floor = check_results("champion", PromotionEvidence(True, [], broken))
            if broken:
                publish_page(deployment, context.instance, tracking, context.partition_key, "champion", floor)
            yield from require("champion", with_page("champion", floor, paths, run))
            held = tracking.champion(spec.name)
            tables = tables_of(deployment, lake.open(), context.partition_key)
            decision, obstacle = compare_models(deployment, paths, tables, tracking, held)
        release = _release(spec, paths, run.run_id, tracking, held, decision, obstacle)
        files.write_release(release)
        deployment.paths.registry_read.unlink(missing_ok=True)
        tracking.tag(run.run_id, {"promoted": str(release.promoted).lower(), "model.version": release.version})
        rules = promotion_rules(spec)
        evidence = PromotionEvidence(
            decision.promote and obstacle is None,
            release.reasons,
            gates={gate.name: (gate, stops(gate, rules)) for gate in decision.gates},
            obstacle=obstacle,
            decay={} if held is None else decay_of_champion(deployment, held),
            served=None if held is None else held.version,
        )
        checks = check_results("champion", evidence)
        publish_page(deployment, context.instance, tracking, context.partition_key, "champion", checks)
        yield dg.MaterializeResult(
            metadata={
                **page_link(paths, run),
                "model": spec.name,
                "version": release.version,
                "promoted": release.promoted,
                "standing": decision.standing.value if obstacle is None else "not compared",
                "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in release.reasons)),
                "champion_before": release.champion_before or "none",
                "mlflow_run_id": run.run_id,
            },
            tags=retrain_tags(deployment, context),
            check_results=with_page("champion", checks, paths, run),
        )

    return [serving_bundle, champion]


def key_reasons(held: ModelVersion | None, fingerprint: str) -> list[str]:
    """The reason that a comparison must give where the champion ``held`` has another key of the hashes."""
    if held is None or held.tags.get(KEY_TAG, fingerprint) == fingerprint:
        return []
    return [
        f"The champion (version {held.version}) was made under another key of the hashes: its vocabulary has none of the ids."
    ]


def _export(spec: Spec, paths: RetrainPaths) -> "tuple[Bundle, Parity, Latency]":
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.ranker import load_ranker
    from ctr_pipeline.serving.export import check_parity, export_bundle
    from ctr_pipeline.serving.latency import measure_latency

    dataset, fitted = PackedDataset.open(paths.packed), RetrainFiles(paths).calibrators()
    ranker = load_ranker(paths.model, dataset.layout, spec.model)
    bundle = export_bundle(ranker, fitted, dataset.layout, paths.packed / "vocabulary.parquet", spec, paths.bundle)
    _keep_profile(paths, dataset)
    test = dataset.splits["test"]
    numeric, ids = test.numeric[:PARITY_ROWS], test.ids[:PARITY_ROWS]
    parity = check_parity(bundle, ranker, fitted, numeric, ids, spec.serving.embedding_storage)
    latency = measure_latency(
        bundle, numeric, ids, spec.serving.candidates, processor_time=time.thread_time, pause=_pause
    )
    return bundle, parity, latency


def _keep_profile(paths: RetrainPaths, dataset: "PackedDataset") -> None:
    """Writes what the inputs looked like in the training beside the bundle, for the skew report."""
    import numpy as np
    import polars as pl

    from ctr_pipeline.features.input_profile import profile_inputs

    rows = pl.read_parquet(paths.packed / "vocabulary.parquet").group_by("feature").agg("row", "key")
    keys = {name: dict(zip(row, key, strict=True)) for name, row, key in rows.iter_rows()}
    learnt, later = dataset.splits["train"], [dataset.splits[name] for name in ("validation", "calibration", "test")]
    profile = profile_inputs(
        dataset.layout, learnt.numeric, learnt.ids, learnt.ts, keys,
        (
            np.concatenate([part.numeric for part in later]),
            np.concatenate([part.ids for part in later]),
            np.concatenate([part.ts for part in later]),
        ),
    )  # fmt: skip
    (paths.bundle / PROFILE_FILE).write_text(profile.to_json(), encoding="utf-8")


def _pause() -> None:
    time.sleep(0.001)


def _release(
    spec: Spec,
    paths: RetrainPaths,
    run_id: str,
    tracking: TrackingResource,
    held: ModelVersion | None,
    decision: "PromotionDecision",
    obstacle: str | None,
) -> Release:
    """Registers the model, and moves the alias where the comparison allows it."""
    from ctr_pipeline.serving import Bundle

    sha256, key = Bundle.open(paths.bundle).sha256, key_fingerprint(process_environment())
    newer = held is not None and held.tags.get("partition", "") > paths.day
    passed = decision.promote and obstacle is None
    # Nothing is promoted without a comparison: where there is none, a person decides.
    promoted = passed and not newer
    found = " ".join([obstacle] if obstacle else decision.reasons)
    tags = {
        "bundle_sha256": sha256,
        "partition": paths.day,
        "folder": str(paths.training),
        KEY_TAG: key,
        PASSED_TAG: str(passed).lower(),
        COMPARED_TAG: found[:LONGEST_TAG],
    }
    version = tracking.register(spec.name, run_id, BUNDLE, tags)
    tracking.set_challenger(spec.name, version)
    if promoted:
        tracking.promote(spec.name, version)
    reasons = [
        *([f"{obstacle} To promote the new one all the same: `ctr promote`."] if obstacle else []),
        *([f"The champion is of a later day, {held.tags['partition']}, and stays."] if held and newer else []),
        *key_reasons(held, key),
        *([] if obstacle else decision.reasons),
        passed_text(RetrainFiles(paths).evaluation(), RetrainFiles(paths).floor()),
    ]
    return Release(
        version=version,
        promoted=promoted,
        reasons=reasons,
        champion_before=held.version if held else None,
        bundle_sha256=sha256,
        comparison=recorded(decision, spec, obstacle),
    )
