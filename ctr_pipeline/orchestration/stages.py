"""The assets of the pipeline in their order: which job makes each, what decides its content, and what proves it made.

Jobs, `ctr run`, the report and the fingerprints follow from this list. A further asset is one entry here and its
module in `assets/`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr_pipeline.deployment.paths import DataRoot, RetrainPaths
from ctr_pipeline.orchestration.fingerprints import (
    INGEST_CODE,
    FingerprintInputs,
    digest,
    history_decided_by,
    labels_decided_by,
    of_files,
    read_only,
    requests_decided_by,
    retrain_decided_by,
    skew_decided_by,
)
from ctr_pipeline.provenance import code_digest

_TABLES = ("errors.py", "spec", "lake")
_DATASET = (*_TABLES, "engines", "sources", "labels", "features", "propensity", "datasets")
_MODEL = (*_DATASET, "losses", "ranker", "gradients", "training")
_PLOTS = ("calibration/labelled.py", "evaluation/drawing.py", "evaluation/plots.py")
_EVALUATION = (
    *_DATASET,
    "calibration",
    "evaluation",
    "orchestration/gates.py",
    "orchestration/champion_scores.py",
    "serving/ranking_score.py",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetStage:
    """One asset in the flow.

    Attributes:
        name: Name of the asset.
        job: Job that makes it.
        step: Stages of one step are made in one run of `ctr run`.
        code: Packages and files of `ctr_pipeline` that decide its content, those of earlier assets left out.
        decided_by: What else decides its content, as plain values.
        table: Table of the lake that proves it made; None for files.
        result: File of a retrain that proves it made; None for others.
        file: File of the data root that proves all days made; None for others.
    """

    name: str
    job: str
    step: str
    code: tuple[str, ...]
    decided_by: Callable[[FingerprintInputs], list[Any]]
    table: str | None = None
    result: Callable[[RetrainPaths], Path] | None = None
    file: Callable[[DataRoot], Path] | None = None

    def fingerprint(self, inputs: FingerprintInputs) -> str:
        """Digest of everything that decides the content of a partition."""
        return digest(self.name, self.decided_by(inputs), code_digest(self.code))


INGEST_STEP, SERVING_STEP, RETRAIN_STEP = "ingest", "serving", "retrain"
INGEST_JOB, LABEL_JOB, RETRAIN_JOB = "daily_ingest", "label_refresh", "daily_retrain"
CANARY_JOB = "canary_watch"

LIVE_ASSETS = ("canary",)
"""Assets of the present, which no day has: their job makes them whenever it runs, and `ctr run` does not."""


def _read(name: str) -> AssetStage:
    return AssetStage(name=name, job=INGEST_JOB, step=INGEST_STEP, code=INGEST_CODE, decided_by=of_files, table=name)


def _table(
    name: str, code: tuple[str, ...], decided_by: Callable[[FingerprintInputs], list[Any]], **changes: str
) -> AssetStage:
    job, table = changes.get("job", INGEST_JOB), changes.get("table", name)
    step = changes.get("step", name)
    return AssetStage(name=name, job=job, step=step, code=(*_TABLES, *code), decided_by=decided_by, table=table)


def _retrain(name: str, code: tuple[str, ...], result: Callable[[RetrainPaths], Path]) -> AssetStage:
    return AssetStage(
        name=name, job=RETRAIN_JOB, step=RETRAIN_STEP, code=code, decided_by=retrain_decided_by, result=result
    )


def _asset(name: str) -> str:
    return f"orchestration/assets/{name}.py"


STAGES = (
    _read("impressions"),
    _read("outcome_events"),
    _table(
        "event_references", ("engines", "sources", _asset("references")), read_only, table="event_references_quarantine"
    ),
    _table("profile", ("engines", "sources", "labels", "features", _asset("monitoring")), read_only),
    _table("labels", ("engines", "labels", _asset("labels")), labels_decided_by, job=LABEL_JOB),
    _table("history", ("engines", "sources", "labels", "features", _asset("features")), history_decided_by),
    AssetStage(
        name="feature_snapshot",
        job=INGEST_JOB,
        step="feature_snapshot",
        code=(*_TABLES, "engines", "sources", "labels", "features", "online", _asset("feature_store")),
        decided_by=history_decided_by,
        file=lambda root: root.online / "current.json",
    ),
    _table("serving_log", ("online", _asset("serving_log")), requests_decided_by, step=SERVING_STEP),
    _table(
        "skew_report",
        (*_DATASET[len(_TABLES) :], *_PLOTS, "calibration", "serving", "online", _asset("serving_log")),
        skew_decided_by,
        step=SERVING_STEP,
    ),
    _retrain("examples", (*_DATASET, _asset("datasets")), lambda paths: paths.examples),
    _retrain("position_propensity", (*_DATASET, *_PLOTS, _asset("propensity")), lambda paths: paths.propensity),
    _retrain(
        "advertiser_quality",
        (*_DATASET, *_PLOTS, "evaluation/funnel_plot.py", _asset("label_quality")),
        lambda paths: paths.advertiser_quality,
    ),
    _retrain("vocabulary", (*_DATASET, _asset("datasets")), lambda paths: paths.vocabulary),
    _retrain("training_dataset", (*_DATASET, _asset("datasets")), lambda paths: paths.packed_manifest),
    _retrain(
        "ranker",
        (*_MODEL, *_PLOTS, _asset("training"), "orchestration/prepared_training.py"),
        lambda paths: paths.model,
    ),
    _retrain("calibrated_ranker", (*_EVALUATION, _asset("evaluation")), lambda paths: paths.calibration),
    _retrain(
        "evaluation",
        (*_EVALUATION, _asset("evaluation"), _asset("measures"), _asset("scores"), _asset("slices")),
        lambda paths: paths.evaluation,
    ),
    _retrain(
        "attribution",
        (
            *_MODEL,
            *_EVALUATION,
            "attribution",
            "deployment/explained_changes.py",
            "deployment/retrain_places.py",
            "deployment/retrain_states.py",
            "deployment/trained_sides.py",
            _asset("attribution"),
        ),
        lambda paths: paths.attribution,
    ),
    _retrain(
        "serving_bundle", (*_MODEL, *_EVALUATION, "serving", _asset("release")), lambda paths: paths.bundle_manifest
    ),
    _retrain(
        "champion",
        (*_MODEL, *_EVALUATION, "serving", _asset("release"), _asset("champion_comparison"), _asset("slices")),
        lambda paths: paths.release,
    ),
)
"""All assets, each after those that it depends on."""

_BY_NAME = {stage.name: stage for stage in STAGES}


def stage(name: str) -> AssetStage:
    """The asset called ``name``."""
    return _BY_NAME[name]


def names(*, job: str | None = None, step: str | None = None) -> tuple[str, ...]:
    """Names of the assets of a job or of a step, in order."""
    return tuple(s.name for s in STAGES if job in (None, s.job) and step in (None, s.step))


def tables() -> tuple[str, ...]:
    """Names of the daily assets that are tables of the lake, in order."""
    return tuple(s.name for s in STAGES if s.table is not None)
