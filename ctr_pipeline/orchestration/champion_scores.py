"""The champion on the test rows of another retrain: what a new model is compared with."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.orchestration.resources import TrackingResource
from ctr_pipeline.orchestration.resources.tracking import ModelVersion
from ctr_pipeline.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctr_pipeline.datasets import Tables
    from ctr_pipeline.serving import Bundle

BUNDLE = "bundle"
"""Folder of the bundle; also among the artifacts of MLflow runs of earlier versions."""


@dataclass(frozen=True, slots=True)
class ComparedChampion:
    """The champion beside a new model."""

    version: str | None
    """Its version in the registry; None without a champion."""
    logits: "NDArray[np.float64] | None"
    """[N, T] calibrated, on the test rows of the new model."""
    obstacle: str | None
    """Why there are none."""

    def to_json(self) -> dict[str, Any]:
        """``{"version", "compared", "obstacle"}``."""
        return {"version": self.version, "compared": self.logits is not None, "obstacle": self.obstacle}


def champion_logits(
    spec: Spec, paths: RetrainPaths, tables: "Tables", tracking: TrackingResource, held: ModelVersion | None
) -> "tuple[NDArray[np.float64] | None, str | None]":
    """Calibrated logits of the champion on this day's test rows, or why there are none.

    The champion sees the rows through its own vocabulary, as it would in serving.
    """
    from ctr_pipeline.calibration import calibrated_logits
    from ctr_pipeline.datasets.view import other_models_test_rows
    from ctr_pipeline.serving import BundleError

    if held is None:
        return None, None
    try:
        bundle = champion_bundle(tracking, spec.name, held)
        fitted = bundle.calibrators()
    except BundleError as error:
        return None, f"The champion (version {held.version}) cannot be opened, so nothing is compared: {error}"
    tasks = [task.name for task in spec.tasks]
    if list(bundle.tasks) != tasks:
        return None, f"The champion (version {held.version}) predicts other tasks ({', '.join(bundle.tasks)})."
    bounds, vocabulary = RetrainFiles(paths).examples().bounds, bundle.directory / "vocabulary.parquet"
    try:
        numeric, ids = other_models_test_rows(spec, bounds, tables, bundle.layout, vocabulary)
    except KeyError as error:
        return None, f"The champion (version {held.version}) needs feature {error}, which the spec no longer has."
    logits = bundle.score(numeric, ids).logits
    return calibrated_logits([fitted[task] for task in tasks], bundle.layout.parents, logits, ids), None


def champion_bundle(tracking: TrackingResource, name: str, held: ModelVersion) -> "Bundle":
    """The champion's bundle: where it was made, unless a later retrain replaced it; else from MLflow.

    Raises:
        BundleError: it is nowhere, or broken.
    """
    from ctr_pipeline.serving import Bundle

    return Bundle.open(bundle_folder(tracking, name, held))


def bundle_folder(tracking: TrackingResource, name: str, held: ModelVersion) -> Path:
    """The folder of a version's bundle: where it was made, unless a later retrain replaced it; else from MLflow.

    Raises:
        BundleError: it is nowhere.
    """
    from mlflow.exceptions import MlflowException

    from ctr_pipeline.serving import Bundle, BundleError

    local, found = Path(held.tags.get("folder", "")) / BUNDLE, "they are those of a later retrain"
    try:
        if Bundle.open(local).sha256 == held.tags.get("bundle_sha256"):
            return local
    except BundleError as error:
        found = str(error)
    try:
        return tracking.version_files(name, held.version)
    except (MlflowException, OSError) as error:
        raise BundleError(
            f"its files are not in MLflow any more ({type(error).__name__}), nor where they were made: {found}"
        ) from error
