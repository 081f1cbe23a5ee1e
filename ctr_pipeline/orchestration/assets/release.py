"""`serving_bundle` → `champion`: what is served, and whether it may take over."""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.raw_logs import key_fingerprint
from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.orchestration.assets.evaluation import calibrators
from ctr_pipeline.orchestration.checks.model_quality import (
    champion_check_spec,
    check_champion,
    check_parity,
    parity_check_spec,
)
from ctr_pipeline.orchestration.files import RELEASE_FILE, RUN_FILE, read_json, scores, write_json
from ctr_pipeline.orchestration.fingerprints import TAG, retrain_fingerprint
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.resources import LakeResource, TrackingResource
from ctr_pipeline.orchestration.user_errors import require, user_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctr_pipeline.serving import Bundle

BUNDLE = "bundle"
KEY_TAG = "key.fingerprint"
"""Tag of a model version: two models under different keys know different ids."""

PARITY_ROWS = 2000
"""Test rows on which the exported graph is compared with the trained model."""


def release_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The exported model, and the promotion."""
    partitions = daily_partitions(settings)

    @dg.asset(
        deps=["calibrated_ranker", "vocabulary", "training_dataset"],
        partitions_def=partitions,
        check_specs=[parity_check_spec("serving_bundle")],
        group_name="release",
        kinds={"onnx"},
        description="ONNX graph with transforms and calibration inside, vocabulary, spec and golden rows.",
    )
    def serving_bundle(
        context: dg.AssetExecutionContext, tracking: TrackingResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from ctr_pipeline.datasets import PackedDataset
        from ctr_pipeline.ranker import load_ranker
        from ctr_pipeline.serving.export import check_parity as measure
        from ctr_pipeline.serving.export import export_bundle

        day = context.partition_key
        folder = settings.training_folder(day)
        with user_errors():
            dataset = PackedDataset.open(settings.packed_folder(day))
            ranker = load_ranker(folder / "model.pt", dataset.layout, settings.spec.model)
            fitted = calibrators(settings, day)
            bundle = export_bundle(
                ranker,
                fitted,
                dataset.layout,
                settings.packed_folder(day) / "vocabulary.parquet",
                settings.spec,
                folder / BUNDLE,
            )
            test = dataset.splits["test"]
            parity = measure(bundle, ranker, fitted, test.numeric[:PARITY_ROWS], test.ids[:PARITY_ROWS])
        check = check_parity("serving_bundle", parity.passed, parity.logit, parity.probability, parity.batch)
        if not check.passed:
            shutil.rmtree(folder / BUNDLE)
        yield from require(check)
        run = read_json(folder / RUN_FILE, "ranker")
        tracking.log(run["run_id"], {"export/max_logit_difference": parity.logit}, {BUNDLE: folder / BUNDLE})
        size = sum(path.stat().st_size for path in (folder / BUNDLE).iterdir())
        yield dg.MaterializeResult(
            metadata={
                "bundle": dg.MetadataValue.path(str(folder / BUNDLE)),
                "bundle_sha256": bundle.sha256,
                "bundle_bytes": size,
                "parity_rows": parity.rows,
                "max_logit_difference": parity.logit,
                "max_probability_difference": parity.probability,
                "max_batch_difference": parity.batch,
                "mlflow_run_id": run["run_id"],
            },
            tags={TAG: retrain_fingerprint(settings, context.instance, date.fromisoformat(day))},
            check_results=[check],
        )

    @dg.asset(
        deps=["serving_bundle", "evaluation"],
        partitions_def=partitions,
        check_specs=[champion_check_spec("champion")],
        group_name="release",
        kinds={"mlflow"},
        description="Registers the model, compares it with the champion on the same test rows, moves the alias.",
    )
    def champion(
        context: dg.AssetExecutionContext, lake: LakeResource, tracking: TrackingResource
    ) -> dg.MaterializeResult:
        from ctr_pipeline.datasets import PackedDataset
        from ctr_pipeline.evaluation import compare_with_champion
        from ctr_pipeline.serving import Bundle

        day = context.partition_key
        folder = settings.training_folder(day)
        run = read_json(folder / RUN_FILE, "ranker")
        name = settings.spec.name
        with user_errors():
            bundle = Bundle.open(folder / BUNDLE)
            test = PackedDataset.open(settings.packed_folder(day)).splits["test"]
            held = tracking.champion(name)
            champion_logits, obstacle = _champion_logits(settings, tracking, lake, day, held)
            decision = compare_with_champion(
                bundle.tasks,
                _calibrated(settings, day),
                champion_logits,
                test.labels,
                test.user,
                max_ne_regression=settings.spec.quality.max_ne_regression,
                seed=settings.spec.seed,
            )
        newer = held is not None and held[2].get("partition", "") > day
        # Nothing is promoted unseen: where the two cannot be compared, a person decides.
        promoted = decision.promote and not newer and obstacle is None
        key = key_fingerprint(os.environ)
        tags = {"bundle_sha256": bundle.sha256, "partition": day, "folder": str(folder), KEY_TAG: key}
        version = tracking.register(name, run["run_id"], BUNDLE, tags)
        tracking.set_challenger(name, version)
        if promoted:
            tracking.promote(name, version)
        reasons = [
            *([f"{obstacle} To promote the new one all the same, give it the alias champion."] if obstacle else []),
            *([f"The champion is of a later day, {held[2]['partition']}, and stays."] if held and newer else []),
            *key_reasons(held, key),
            *([] if obstacle else decision.reasons),
        ]
        write_json(
            folder / RELEASE_FILE,
            {**decision.to_json(), "reasons": reasons, "version": version, "promoted": promoted,
             "champion_before": held[0] if held else None, "bundle_sha256": bundle.sha256},
        )  # fmt: skip
        tracking.tag(run["run_id"], {"promoted": str(promoted).lower(), "model.version": version})
        return dg.MaterializeResult(
            metadata={
                "model": name,
                "version": version,
                "promoted": promoted,
                "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in reasons)),
                "champion_before": held[0] if held else "none",
                "mlflow_run_id": run["run_id"],
            },
            tags={TAG: retrain_fingerprint(settings, context.instance, date.fromisoformat(day))},
            check_results=[check_champion("champion", decision.promote and obstacle is None, reasons)],
        )

    return [serving_bundle, champion]


def key_reasons(held: tuple[str, str, dict[str, str]] | None, fingerprint: str) -> list[str]:
    """What a comparison must say where the champion ``held`` and the new model know different ids."""
    if held is None or held[2].get(KEY_TAG, fingerprint) == fingerprint:
        return []
    return [f"The champion (version {held[0]}) was made under another key of the hashes: it knows none of the ids."]


def _calibrated(settings: PipelineSettings, day: str) -> "NDArray[np.float64]":
    """Calibrated logits [N, T] of the new model on the test rows."""
    import numpy as np

    logits = scores(settings, day, "test")
    fitted = calibrators(settings, day)
    return np.column_stack(
        [fitted[task.name].apply(logits[:, column]) for column, task in enumerate(settings.spec.tasks)]
    )


def _champion_logits(
    settings: PipelineSettings,
    tracking: TrackingResource,
    lake: LakeResource,
    day: str,
    held: tuple[str, str, dict[str, str]] | None,
) -> "tuple[NDArray[np.float64] | None, str | None]":
    """Calibrated logits of the champion on this day's test rows, or why there are none.

    The champion sees the rows through its own vocabulary, as it would in serving.
    """
    import numpy as np

    from ctr_pipeline.evaluation import Calibrator
    from ctr_pipeline.serving import BundleError

    if held is None:
        return None, None
    try:
        bundle = _champion_bundle(tracking, held)
    except BundleError as error:
        return None, f"The champion (version {held[0]}) cannot be opened, so nothing is compared: {error}"
    tasks = [task.name for task in settings.spec.tasks]
    if list(bundle.tasks) != tasks:
        return None, f"The champion (version {held[0]}) predicts other tasks ({', '.join(bundle.tasks)})."
    from ctr_pipeline.orchestration.assets.datasets import test_rows_for

    try:
        numeric, ids = test_rows_for(settings, lake.open(), day, bundle.layout, bundle.directory / "vocabulary.parquet")
    except KeyError as error:
        return None, f"The champion (version {held[0]}) needs feature {error}, which the spec no longer has."
    logits = bundle.score(numeric, ids).logits
    fitted = json.loads((bundle.directory / "calibration.json").read_text(encoding="utf-8"))
    columns = [Calibrator.from_json(fitted[task]).apply(logits[:, n]) for n, task in enumerate(tasks)]
    return np.column_stack(columns), None


def _champion_bundle(tracking: TrackingResource, held: tuple[str, str, dict[str, str]]) -> "Bundle":
    """The champion's bundle: where it was made, unless a later retrain replaced it; else from MLflow.

    Raises:
        BundleError: it is nowhere, or broken.
    """
    from mlflow.exceptions import MlflowException

    from ctr_pipeline.serving import Bundle, BundleError

    try:
        local = Bundle.open(Path(held[2].get("folder", "")) / BUNDLE)
        if local.sha256 == held[2].get("bundle_sha256"):
            return local
    except BundleError:
        pass
    try:
        return Bundle.open(Path(tracking.client().download_artifacts(held[1], BUNDLE)))
    except (MlflowException, OSError) as error:
        raise BundleError(f"its files are not in MLflow any more ({type(error).__name__}).") from error
