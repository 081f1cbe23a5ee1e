"""The files that a step of a retrain leaves for the steps after it, typed."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from ctr_pipeline.calibration import Calibrator
    from ctr_pipeline.datasets import SplitBounds
    from ctr_pipeline.features import Layout
    from ctr_pipeline.labels import QualityTable
    from ctr_pipeline.propensity import PropensityTable

SCORED_SPLITS = ("validation", "calibration", "test")
"""Splits that the trainer scores with the best epoch's weights."""


class MissingFileError(UserError):
    """A file of an earlier step is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplesView:
    """What `examples` decided: which versions of the tables a retrain reads, and how time is divided."""

    as_of: int
    """Instant as of which labels are seen, microseconds."""
    versions: Mapping[str, int | None]
    """Delta version of each table; None for a table that does not exist."""
    bounds: "SplitBounds"
    watermarks: Mapping[str, Mapping[str, int]]
    """By split and task, up to when outcomes had been delivered; empty for views of before they were recorded."""
    stopped_logs: Mapping[str, str]
    """Logs of outcomes that had stopped, each with the instant up to which it was delivered."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ExamplesView":
        """The view that :meth:`to_json` described."""
        from ctr_pipeline.datasets import SplitBounds

        return cls(
            as_of=content["as_of"],
            versions=content["versions"],
            bounds=SplitBounds.from_json(content["bounds"]),
            watermarks=content.get("watermarks", {}),
            stopped_logs=content.get("stopped_logs", {}),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "as_of": self.as_of,
            "versions": dict(self.versions),
            "bounds": self.bounds.to_json(),
            "watermarks": {split: dict(of) for split, of in self.watermarks.items()},
            "stopped_logs": dict(self.stopped_logs),
        }

    @property
    def existing_versions(self) -> dict[str, int]:
        """Versions of the tables that exist."""
        return {table: version for table, version in self.versions.items() if version is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """The MLflow run of a training."""

    run_id: str
    tracking_uri: str
    """Address of the store, without a password."""
    url: str
    """Address of the run's page; empty where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What became of a model: its version in the registry, and whether it was promoted."""

    version: str
    promoted: bool
    reasons: list[str]
    champion_before: str | None
    """Version that was the champion before; None without one."""
    bundle_sha256: str
    comparison: Mapping[str, Any]
    """Figures of the comparison with the champion."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; the comparison's beside the others."""
        own = asdict(self)
        return {**own.pop("comparison"), **own}


@dataclass(frozen=True, slots=True)
class RetrainFiles:
    """Reads and writes the files of one retrain; a read of an absent file names the step that makes it."""

    paths: RetrainPaths

    def examples(self) -> ExamplesView:
        """What `examples` decided."""
        return ExamplesView.from_json(self._read(self.paths.examples, "examples"))

    def write_examples(self, view: ExamplesView) -> None:
        """Keeps what `examples` decided."""
        write_json(self.paths.examples, view.to_json())

    def propensity(self) -> "PropensityTable":
        """What `position_propensity` fitted."""
        from ctr_pipeline.propensity import PropensityTable

        return PropensityTable.from_json(self._text(self.paths.propensity, "position_propensity"))

    def write_propensity(self, table: "PropensityTable") -> None:
        """Keeps what `position_propensity` fitted."""
        self.paths.propensity.write_text(table.to_json(), encoding="utf-8")

    def advertiser_quality(self) -> "QualityTable":
        """What `advertiser_quality` found."""
        from ctr_pipeline.labels import QualityTable

        return QualityTable.from_json(self._text(self.paths.advertiser_quality, "advertiser_quality"))

    def write_advertiser_quality(self, table: "QualityTable", keys: "pl.DataFrame | None") -> None:
        """Keeps what `advertiser_quality` found; ``keys`` has a row for each key and task."""
        path = self.paths.advertiser_quality
        if keys is not None:
            keys.write_parquet(path.with_suffix(".parquet"), compression="zstd", statistics=False)
        path.write_text(table.to_json(), encoding="utf-8")

    def layout(self) -> "Layout":
        """The inputs that `vocabulary` fitted."""
        from ctr_pipeline.features import Layout

        return Layout.from_json(self._text(self.paths.layout, "vocabulary"))

    def vocabulary(self) -> "pl.DataFrame":
        """The ids that `vocabulary` fitted: columns feature, key and row."""
        import polars as pl

        self._require(self.paths.vocabulary, "vocabulary")
        return pl.read_parquet(self.paths.vocabulary)

    def write_vocabulary(self, layout: "Layout", vocabulary: "pl.DataFrame") -> None:
        """Keeps what `vocabulary` fitted."""
        self.paths.layout.parent.mkdir(parents=True, exist_ok=True)
        self.paths.layout.write_text(layout.to_json(), encoding="utf-8")
        vocabulary.write_parquet(self.paths.vocabulary, compression="zstd", statistics=False)

    def mlflow_run(self) -> TrackedRun:
        """The MLflow run of `ranker`."""
        return TrackedRun(**self._read(self.paths.mlflow_run, "ranker"))

    def write_mlflow_run(self, run: TrackedRun) -> None:
        """Keeps which MLflow run `ranker` is."""
        write_json(self.paths.mlflow_run, asdict(run))

    @property
    def position_modes(self) -> tuple[bool, ...]:
        """Whether rows were scored with the logged position: False, as the model is served; and True where it learns one."""
        return (False, True) if self.paths.scores("test", logged_position=True).is_file() else (False,)

    def scores(self, split: str, *, logged_position: bool = False) -> "NDArray[np.float32]":
        """Uncalibrated logits [N, T] of a split, in the order of its packed rows."""
        import numpy as np

        path = self.paths.scores(split, logged_position=logged_position)
        self._require(path, "ranker")
        loaded: NDArray[np.float32] = np.load(path)
        return loaded

    def calibrators(self, *, logged_position: bool = False) -> "dict[str, Calibrator]":
        """The fitted calibrator of each task, for the model as it is served or for scores with the logged position."""
        from ctr_pipeline.calibration import calibrator_from_json

        content = self._read(self.paths.calibrators(logged_position=logged_position), "calibrated_ranker")
        return {task: calibrator_from_json(fields) for task, fields in content.items()}

    def write_calibrators(self, fitted: "Mapping[str, Calibrator]", *, logged_position: bool = False) -> None:
        """Keeps the fitted calibrators."""
        from ctr_pipeline.calibration import calibrator_to_json

        path = self.paths.calibrators(logged_position=logged_position)
        write_json(path, {task: calibrator_to_json(found) for task, found in fitted.items()})

    def calibrated(self, split: str, tasks: Sequence[str], *, logged_position: bool = False) -> "NDArray[np.float64]":
        """Calibrated logits [N, T] of a split."""
        from ctr_pipeline.calibration import calibrated_logits
        from ctr_pipeline.datasets import PackedDataset

        fitted = self.calibrators(logged_position=logged_position)
        logits = self.scores(split, logged_position=logged_position)
        ids = PackedDataset.open(self.paths.packed, [split]).splits[split].ids
        return calibrated_logits([fitted[task] for task in tasks], self.layout().parents, logits, ids)

    def evaluation(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Metrics by task and split, of the model as it is served."""
        found: dict[str, dict[str, dict[str, Any]]] = self._read(self.paths.evaluation, "evaluation")["metrics"]
        return found

    def write_evaluation(
        self,
        metrics: Mapping[str, Mapping[str, Mapping[str, Any]]],
        otherwise: Mapping[str, Mapping[str, Mapping[str, Any]]],
        floor: Mapping[str, Any],
        slices: Mapping[str, Sequence[Mapping[str, Any]]],
        further: Mapping[str, Any],
    ) -> None:
        """Keeps the metrics by task and split, those of the test that were measured otherwise, by how and task, how
        the model compares with what it has to beat, the slices of the test by task, and the ``further`` keys of
        docs/report.md.
        """
        content = {"metrics": metrics, "test_otherwise": otherwise, "floor": floor, "slices": slices, **further}
        write_json(self.paths.evaluation, content)

    def floor(self) -> dict[str, Any]:
        """How the model compares with what it has to beat; empty in files of earlier versions."""
        found: dict[str, Any] = self._read(self.paths.evaluation, "evaluation").get("floor", {})
        return found

    def write_release(self, release: Release) -> None:
        """Keeps what became of the model."""
        write_json(self.paths.release, release.to_json())

    def _read(self, path: Path, made_by: str) -> dict[str, Any]:
        self._require(path, made_by)
        return read_json(path)

    def _text(self, path: Path, made_by: str) -> str:
        self._require(path, made_by)
        return path.read_text(encoding="utf-8")

    def _require(self, path: Path, made_by: str) -> None:
        if not path.is_file():
            raise MissingFileError(
                f"{path.name} of {self.paths.day} is absent: materialise {made_by} for the same partition first."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """What the trainer reported of a training."""

    status: str
    """``finished``, ``stopped`` (before an update with a value that is not finite) or ``failed``."""
    cause: str | None
    """Why it did not finish."""
    findings: Mapping[str, Mapping[str, Any]]
    """Gradient health: by name, ``severity`` (``ok``, ``warn`` or ``error``) and ``message``."""
    warnings: tuple[str, ...]
    facts: Mapping[str, Any]
    """Everything else: epochs, steps, seconds, device, digests, health figures."""

    @classmethod
    def read(cls, path: Path, exit_code: int = 0) -> "TrainingOutcome":
        """The outcome in ``path``; a trainer that ended without writing one has failed.

        Args:
            path: result.json of the training.
            exit_code: Exit code of the trainer; other than 0, the training did not finish.
        """
        content = read_json(path)
        if not content:
            no_result = f"the trainer ended with code {exit_code} and wrote no result (out of memory?)"
            return cls(status="failed", cause=no_result, findings={}, warnings=(), facts={})
        status = content["status"]
        cause = (content.get("cause") or {}).get("message")
        if exit_code != 0 and status == "finished":
            status, cause = "failed", f"the trainer ended with code {exit_code}"
        return cls(
            status=status,
            cause=cause,
            findings={finding["name"]: finding for finding in content.get("findings", ())},
            warnings=tuple(content.get("warnings", ())),
            facts=content,
        )

    @property
    def died(self) -> bool:
        """Whether the trainer ended without a word, as one that is killed: the same training may end well."""
        return self.status == "failed" and not self.facts

    def strongest(self, count: int) -> list[Mapping[str, Any]]:
        """The findings that are not ``ok``, in the trainer's own order where it gives one, causes before consequences.

        Else errors come first, and of each kind those furthest beyond their limit.

        Of a training that was stopped two kinds are left out: that a value was not finite, of which the cause says more,
        and what a detector had no time to measure.
        """
        found = [f for f in self.findings.values() if f.get("severity") != "ok"]
        if self.status == "stopped":
            found = [f for f in found if f["name"] != "nonfinite" and f.get("value", 0) is not None]
        named = [str(name) for name in self.facts.get("strongest", ())]
        place = {name: number for number, name in enumerate(named)}

        def order(finding: Mapping[str, Any]) -> tuple[int, bool, float]:
            return place.get(str(finding["name"]), len(place)), finding["severity"] != "error", -_excess(finding)

        return sorted(found, key=order)[:count]

    def blocking_reason(self, blocking: Collection[str]) -> str | None:
        """Why the model must not be used; None when it may.

        Args:
            blocking: Names of the findings whose errors forbid it.
        """
        if self.status != "finished":
            return f"Training {self.status}: {self.cause or 'no cause was given'}"
        for name, finding in self.findings.items():
            if name in blocking and finding["severity"] == "error":
                return f"Training finished, but {finding['message']}"
        return None


def _excess(finding: Mapping[str, Any]) -> float:
    """How many times its limit a finding's measurement is; infinite where it is no number, 0 where it does not say."""
    value, limit = finding.get("value"), finding.get("limit")
    if isinstance(value, str):
        # JSON has no NaN and no infinity: the trainer writes them as text.
        return math.inf
    if isinstance(value, int | float) and isinstance(limit, int | float) and limit > 0:
        return float(value) / float(limit)
    return 0.0
