"""The skew report of one day: what models got, beside what training would have given them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.features import Layout
from ctr_pipeline.features.clock_columns import whole_numbers
from ctr_pipeline.features.input_profile import InputProfile, profile_inputs
from ctr_pipeline.online.cold_rows import ColdShare
from ctr_pipeline.online.distribution_kinds import MIX, NEW_VALUES, SPREAD
from ctr_pipeline.online.feature_comparison import ComparedInputs, FeatureDifference, compare_inputs
from ctr_pipeline.online.input_distribution import find_shifts
from ctr_pipeline.online.logged_rows import matrix_of
from ctr_pipeline.online.recomputed_inputs import ReplayTables, age_features, history_features, recomputed_inputs
from ctr_pipeline.online.shift_windows import DistributionShift, ServedInputs
from ctr_pipeline.online.skew_kinds import (
    CONSTANT,
    DEFAULT_FOR_MISSING,
    MISSING,
    STALE,
    UNEXPLAINED,
    UNIT,
    ZERO_FOR_MISSING,
    Kind,
    Mask,
)
from ctr_pipeline.serving.bundle import MAX_PROBABILITY_DIFFERENCE, Bundle
from ctr_pipeline.spec import Spec

SCORE_REPLAY, FEATURE_REPLAY, DISTRIBUTION = "score_replay", "feature_replay", "distribution"
"""The three comparisons."""

FINDING_SCHEMA: dict[str, pl.DataType] = {
    "day": pl.Date(),
    "comparison": pl.String(),
    "feature": pl.String(),
    "kind": pl.String(),
    "detail": pl.String(),
    "since": pl.Int64(),
    "request_id": pl.String(),
    "requests": pl.Int64(),
    "rows": pl.Int64(),
    "share": pl.Float64(),
    "model_sha": pl.String(),
    "error": pl.Boolean(),
}
"""Columns of the table `skew_report`: a row for each feature, comparison and model that shows a skew. ``since`` and ``request_id``
are the time and id of the first request that shows it, ``requests`` and ``rows`` how many do, ``share`` that of the compared rows."""

SCORES = "scores"
"""In place of a feature: the scores themselves."""

UNCERTAIN = frozenset((UNEXPLAINED, MIX, SPREAD, NEW_VALUES))
"""Kinds under which a shift of the distribution may be a true one of the traffic."""

_OF_LOGS = (MISSING, ZERO_FOR_MISSING, DEFAULT_FOR_MISSING, CONSTANT)

LATE_SHARE = 0.1
"""Of a snapshot that is a day old, as far as so many rows of a day have it, it is that the new one came late: a warning."""

_BATCH = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One feature under one comparison; the fields are the columns of :data:`FINDING_SCHEMA`."""

    day: date
    comparison: str
    feature: str
    kind: str
    detail: str
    since: int
    request_id: str
    requests: int
    rows: int
    share: float
    model_sha: str
    error: bool

    @property
    def text(self) -> str:
        """What was found, in a sentence."""
        since = pl.Series([self.since]).cast(pl.Datetime("us")).dt.strftime("%Y-%m-%d %H:%M:%S").item()
        kind = f"{self.kind} ({self.detail})" if self.detail else self.kind
        return f"{self.feature}: {kind}, since {since} UTC in {self.requests:,} requests ({self.comparison.replace('_', ' ')})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedModel:
    """A model that the log names."""

    bundle: Bundle
    vocabulary: pl.DataFrame
    """Columns feature, key and row."""
    training: InputProfile | None
    """None for a model of before profiles were kept."""

    @property
    def keys(self) -> dict[str, dict[int, str]]:
        """By vocabulary the value of each embedding row."""
        return {
            str(name): dict(zip(of["row"].to_list(), of["key"].to_list(), strict=True))
            for (name,), of in self.vocabulary.group_by("feature")
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySources:
    """What the day's requests are compared with.

    Attributes:
        spec: The deployment's spec.
        models: By SHA-256 the models that are still there.
        tables: Of the impressions that the requests name.
        recent: Impressions of the days before, with the history of their keys; None where there are none.
    """

    spec: Spec
    models: Mapping[str, LoggedModel]
    tables: ReplayTables
    recent: ReplayTables | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReport:
    """What was found on a day, and how much was looked at."""

    day: date
    findings: tuple[Finding, ...] = ()
    requests: int = 0
    rows: int = 0
    replayed_scores: int = 0
    """Rows whose scores were computed again."""
    replayed_features: int = 0
    """Rows whose inputs were computed again."""
    compared_distributions: int = 0
    """Rows of models with a profile."""
    largest_score_difference: float = 0.0
    absent_models: tuple[str, ...] = ()
    """SHA-256 of models whose files are gone."""
    mismatches: Mapping[str, float] = field(default_factory=dict)
    """By feature the share of replayed rows that differ, the largest of the models."""
    shown: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    """For plots, by named number: served values, and recomputed ones or quantiles of the training."""
    cold: tuple[ColdShare, ...] = ()
    """How often categories were new ones."""


def report_day(day: date, logged: pl.DataFrame, sources: ReplaySources) -> DayReport:
    """The report of ``logged``, the rows of `serving_log` of a day, in the table's order."""
    findings: list[Finding] = []
    numbers: dict[str, Any] = {"replayed_scores": 0, "replayed_features": 0, "compared_distributions": 0}
    largest, absent, mismatches, shown = 0.0, [], dict[str, float](), dict[str, Any]()
    for (sha,), rows in logged.group_by("model_sha", maintain_order=True):
        model = sources.models.get(str(sha))
        if model is None:
            absent.append(str(sha))
            continue
        served = _Served.of(rows, model.bundle)
        if served is None:
            findings.append(_wrong_shape(day, rows, str(sha)))
            continue
        difference, found = _replay_scores(day, served, model.bundle)
        largest, findings = max(largest, difference), findings + found
        numbers["replayed_scores"] += rows.height
        compared, differences = _replay_features(served, model, sources)
        numbers["replayed_features"] += compared
        for one in differences:
            mismatches[one.feature] = max(mismatches.get(one.feature, 0.0), one.share)
        own = [_of_difference(day, served, one) for one in differences if one.kind is not None]
        shifts = _shifts(served, model, sources)
        numbers["compared_distributions"] += rows.height if model.training is not None else 0
        clean = {one.feature for one in differences if compared and not one.differing}
        past = history_features(sources.spec)
        own += [_of_shift(day, served, shift, shift.feature in clean, shift.feature in past) for shift in shifts]
        findings += own
        shown |= _shown(served, model, {finding.feature for finding in own})
    return DayReport(
        day=day,
        findings=tuple(findings),
        requests=logged.select("segment", "record").n_unique() if logged.height else 0,
        rows=logged.height,
        largest_score_difference=largest,
        absent_models=tuple(absent),
        mismatches=mismatches,
        shown=shown,
        **numbers,
    )


def findings_frame(findings: tuple[Finding, ...] | list[Finding]) -> pl.DataFrame:
    """The findings as rows of the table `skew_report`."""
    names = list(FINDING_SCHEMA)
    return pl.DataFrame([{name: getattr(one, name) for name in names} for one in findings], schema=FINDING_SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """The rows of one model as arrays; their impressions, where replayed, are found once."""

    rows: pl.DataFrame
    layout: Layout
    numeric: NDArray[np.float32]
    ids: NDArray[np.int32]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    ts: NDArray[np.int64]
    requests: NDArray[np.int64]
    places: NDArray[np.intp]
    """[K] rows that were replayed."""

    @classmethod
    def of(cls, rows: pl.DataFrame, bundle: Bundle) -> "_Served | None":
        layout, tasks = bundle.layout, len(bundle.tasks)
        new = (rows["segment"] != rows["segment"].shift()) | (rows["record"] != rows["record"].shift())
        try:
            return cls(
                rows=rows,
                layout=layout,
                numeric=matrix_of(rows["numeric"], len(layout.numeric), np.float32),
                ids=matrix_of(rows["ids"], len(layout.id_columns), np.int32),
                logits=matrix_of(rows["logits"], tasks, np.float32),
                probabilities=matrix_of(rows["probabilities"], tasks, np.float32),
                ts=rows["ts"].to_numpy(),
                requests=new.fill_null(True).cast(pl.Int64).cum_sum().to_numpy() - 1,
                places=np.flatnonzero(rows["impression_id"].is_not_null().to_numpy()),
            )
        except ValueError:
            return None

    def finding(self, day: date, at: int, **fields: Any) -> Finding:
        """A finding that begins at row ``at``."""
        row = self.rows.row(at, named=True)
        return Finding(day=day, since=row["ts"], request_id=row["request_id"], model_sha=row["model_sha"], **fields)


def _wrong_shape(day: date, rows: pl.DataFrame, sha: str) -> Finding:
    return Finding(
        day=day, comparison=SCORE_REPLAY, feature=SCORES, kind=UNEXPLAINED, detail="inputs of another layout",
        since=int(rows["ts"][0]), request_id=str(rows["request_id"][0]), requests=rows.select("segment", "record").n_unique(),
        rows=rows.height, share=1.0, model_sha=sha, error=True,
    )  # fmt: skip


def _replay_scores(day: date, served: _Served, bundle: Bundle) -> tuple[float, list[Finding]]:
    """The largest difference in probability, and the finding where it is too large."""
    difference = np.zeros(len(served.ts))
    lowest, highest = served.layout.id_rows
    usable: Mask = np.logical_and.reduce((served.ids >= lowest) & (served.ids <= highest), axis=1)
    for start in range(0, len(usable), _BATCH):
        part = np.flatnonzero(usable[start : start + _BATCH]) + start
        again = bundle.score(served.numeric[part], served.ids[part]).probabilities
        difference[part] = np.abs(again.astype(np.float64) - served.probabilities[part]).max(axis=1)
    difference[~usable] = np.inf
    wrong = ~(difference <= MAX_PROBABILITY_DIFFERENCE)
    if not wrong.any():
        return float(difference.max(initial=0.0)), []
    largest = float(np.nanmax(difference))
    return largest, [
        served.finding(
            day, int(np.argmax(wrong)), comparison=SCORE_REPLAY, feature=SCORES, kind="other scores",
            detail=f"by up to {largest:.2g}", requests=len(np.unique(served.requests[wrong])), rows=int(wrong.sum()),
            share=float(wrong.mean()), error=True,
        )
    ]  # fmt: skip


def _replay_features(
    served: _Served, model: LoggedModel, sources: ReplaySources
) -> tuple[int, list[FeatureDifference]]:
    """How many rows were replayed, and each feature with its first row as a place among all rows."""
    given = served.places
    if not len(given) or sources.tables.impressions.is_empty():
        return 0, []
    ids, ts = served.rows["impression_id"].gather(given), served.ts[given]

    def recompute(stale_days: int) -> Any:
        return recomputed_inputs(sources.spec, sources.tables, ids, ts, served.layout, model.vocabulary, stale_days)

    try:
        made = recompute(0)
    except KeyError:
        # The spec no longer has a feature of this model: nothing can be computed again.
        return 0, []
    if not len(made.rows):
        return 0, []
    rows = given[made.rows]
    others = {
        sha[:12]: {
            str(name): dict(zip(of["key"], of["row"], strict=True))
            for (name,), of in other.vocabulary.group_by("feature")
        }
        for sha, other in sources.models.items()
        if other is not model
    }
    found = compare_inputs(
        ComparedInputs(
            layout=served.layout,
            numeric=served.numeric[rows],
            ids=served.ids[rows],
            expected_numeric=made.numeric,
            expected_ids=made.ids,
            ts=served.ts[rows],
            requests=served.requests[rows],
            earlier=lambda days: (lambda then: (then.numeric, then.ids))(recompute(days)),
            keys=model.keys,
            vocabularies=others,
            ages=age_features(sources.spec),
        )
    )
    return len(rows), [_placed(one, rows) for one in found]


def _placed(one: FeatureDifference, rows: NDArray[np.intp]) -> FeatureDifference:
    return replace(one, first=int(rows[one.first])) if one.first >= 0 else one


def _shifts(served: _Served, model: LoggedModel, sources: ReplaySources) -> list[DistributionShift]:
    if model.training is None:
        return []
    keys = model.keys
    return find_shifts(
        ServedInputs(numeric=served.numeric, ids=served.ids, ts=served.ts, requests=served.requests),
        model.training,
        _recent_profile(model, sources, keys),
        served.layout,
        {name: whole_numbers(of) for name, of in keys.items()},
    )


def _recent_profile(
    model: LoggedModel, sources: ReplaySources, keys: Mapping[str, Mapping[int, str]]
) -> InputProfile | None:
    recent = sources.recent
    if recent is None or recent.impressions.is_empty():
        return None
    shown = recent.impressions.sort("ts", "impression_id")
    layout, ts = model.bundle.layout, shown["ts"].to_numpy()
    try:
        made = recomputed_inputs(sources.spec, recent, shown["impression_id"], ts, layout, model.vocabulary)
    except KeyError:
        return None
    return profile_inputs(layout, made.numeric, made.ids, ts[made.rows], keys)


def _of_difference(day: date, served: _Served, one: FeatureDifference) -> Finding:
    assert one.kind is not None, "asked before"
    # Between midnight and the new snapshot, that of the day before is served.
    late = one.kind.name == STALE and one.kind.detail.startswith("1 day ") and one.share <= LATE_SHARE
    return served.finding(
        day, one.first, comparison=FEATURE_REPLAY, feature=one.feature, kind=one.kind.name, detail=one.kind.detail,
        requests=one.requests, rows=one.differing, share=one.share, error=not late,
    )  # fmt: skip


def _of_shift(day: date, served: _Served, shift: DistributionShift, as_logged: bool, of_past: bool) -> Finding:
    """A shift of inputs that are those of the impression log is the log's, not that of serving.

    Then a kind says something only where it is surely no traffic: values that are gone or constant, or in another unit. New
    keys have no past, so that values of the past may be missing.
    """
    kind = shift.kind
    if as_logged and kind.name not in ((CONSTANT, UNIT) if of_past else (*_OF_LOGS, UNIT)):
        kind = kind if kind.name in UNCERTAIN else Kind(MIX if shift.is_id else SPREAD)
    notes = [kind.detail, "the impression log has it too" if as_logged else ""]
    return served.finding(
        day, shift.first, comparison=DISTRIBUTION, feature=shift.feature, kind=kind.name,
        detail="; ".join(note for note in notes if note), requests=shift.requests, rows=shift.rows,
        share=shift.rows / max(1, len(served.ts)), error=kind.name not in UNCERTAIN,
    )  # fmt: skip


def _shown(served: _Served, model: LoggedModel, features: set[str]) -> dict[str, Any]:
    if model.training is None:
        return {}
    found: dict[str, Any] = {}
    for column in model.training.columns:
        if column.feature in features and not column.is_id and column.quantiles:
            found[column.feature] = (
                served.numeric[:, column.column].astype(np.float64), np.array(column.quantiles),
            )  # fmt: skip
    return found
