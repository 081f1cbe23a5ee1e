"""Position propensities: how exposure and examination differ between randomised and production traffic."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.errors import UserError
from ctr_pipeline.propensity.bootstrap import Spread, cluster_counts, spread_of
from ctr_pipeline.propensity.rates import ess_share, shrunk, smoothed_rates

RANDOM, PRODUCTION = "random", "production"
"""The two kinds of traffic that are compared; rows of other kinds keep weight 1."""

_Z95 = 1.959963984540054


class PropensityError(UserError):
    """Rows that cannot be used; the message says what was found and expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionPropensity:
    """One position and response. Rates are smoothed.

    Intervals are of 95 %, and those of the counts as they are: smoothing pulls a rate away from its truth. They are extended to
    the smoothed ratio where it lies outside.
    """

    response: str
    position: int
    random_rows: int
    random_positives: int
    production_rows: int
    production_positives: int
    random_rate: float
    production_rate: float
    exposure_ratio: float
    """Rate in random traffic over rate in production. Examination cancels: it corrects selection and exposure."""
    exposure_low: float
    exposure_high: float
    examination: float
    """Rate in random traffic over that at the first position: how often the position is looked at, relatively."""
    examination_low: float
    examination_high: float
    weight_ratio: float
    """``exposure_ratio``, pulled to that of the parent response by precision, and then as far towards 1 as its variance is
    large beside the variance between positions; the weight before clipping."""
    weight: float
    """``weight_ratio``, clipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsePropensity:
    """What the weights of one response do to the rows that they were estimated on."""

    response: str
    usable: bool
    """Whether both kinds of traffic were seen; otherwise all weights are 1."""
    reason: str
    """Why it is not usable; empty when it is."""
    rows: int
    positives: int
    clipped_share: float
    """Share of the production rows whose weight was clipped."""
    mean_weight: float
    """Mean of the clipped weights over all rows; dividing by it gives weights of mean 1."""
    ess_rows: float
    """Effective sample size (Σw)²/Σw² of all rows, as a share of their number."""
    ess_positives: float
    """The same of the positives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PropensityTable:
    """Weights by position and response, and what they rest on."""

    positions: tuple[PositionPropensity, ...]
    responses: tuple[ResponsePropensity, ...]

    def raw_weights(
        self, response: str, position: NDArray[np.integer[Any]], production: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """[N] clipped weights before normalisation; 1 for other traffic, unknown positions and unknown responses.

        Args:
            response: Name of a task.
            position: [N] slots, 0 where missing.
            production: [N] whether the production ranker chose the order.
        """
        weights = np.ones(len(position), dtype=np.float64)
        for entry in self.positions:
            if entry.response == response:
                weights[production & (position == entry.position)] = entry.weight
        return weights

    def frame(self) -> pl.DataFrame:
        """The positions as a table."""
        return pl.DataFrame([asdict(entry) for entry in self.positions], infer_schema_length=None)

    def to_json(self) -> str:
        """The table as JSON text; read back by :meth:`from_json`."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The table in JSON ``text`` that :meth:`to_json` made."""
        content = json.loads(text)
        return cls(
            positions=tuple(PositionPropensity(**entry) for entry in content["positions"]),
            responses=tuple(ResponsePropensity(**entry) for entry in content["responses"]),
        )


def position_propensity(
    rows: pl.DataFrame,
    responses: Sequence[str],
    parents: Mapping[str, str | None],
    *,
    smoothing: float,
    clip: tuple[float, float],
    seed: int,
    replicates: int = 200,
) -> PropensityTable:
    """Ratios of response rates by position, of randomised to production traffic of the same days.

    For a position with c positives in n rows of one kind of traffic, and m the rate of that traffic over all positions
    (with half a positive and one row added, so that it is never 0): rate = (c + smoothing · m) / (n + smoothing).
    The variance of a log ratio is (1 - rate) / c of numerator and denominator summed (c at least 0.5), or that of a
    bootstrap over sessions (rows, where sessions are not logged) if larger. A response with a parent is sparse:
    its log ratio is averaged with the parent's by precision before it becomes a weight. Last, the log ratios are shrunk
    towards 0, a weight of 1 (:func:`shrunk`): a ratio that its interval does not justify weighs nothing. Days are pooled.
    Position-based model and ratio estimator: Craswell et al. 2008, Joachims et al. 2017.

    Args:
        rows: Settled and unsettled impressions: day, position (null = not logged), traffic, session (null = not
            logged), and ``y_<response>`` (1, 0; null = not settled, left out).
        responses: Tasks that get weights.
        parents: Parent of each task.
        smoothing: Pseudo-impressions that pull each position's rate to that of all positions.
        clip: Smallest and largest weight.
        seed: Seed of the bootstrap.
        replicates: Bootstrap replicates.

    Raises:
        PropensityError: a column is absent.
    """
    needed = ["day", "position", "traffic", "session", *(f"y_{response}" for response in responses)]
    absent = [name for name in needed if name not in rows.columns]
    if absent:
        raise PropensityError(f"position propensity: columns {', '.join(absent)} are absent from {rows.columns}")
    # A row without a session is a cluster of its own, so the bootstrap depends on the order of the rows.
    rows = rows.select(needed).sort(needed)
    ordered = sorted(responses, key=lambda response: _depth(response, parents))
    estimates: dict[str, _Estimate] = {}
    positions: dict[str, list[PositionPropensity]] = {}
    summaries: dict[str, ResponsePropensity] = {}
    for response in ordered:
        settled = rows.drop_nulls(f"y_{response}").rename({f"y_{response}": "y"})
        compared = _comparable(settled)
        reason = _unusable(compared)
        if not reason:
            parent = estimates.get(parents.get(response) or "")
            estimates[response] = _estimate(compared, smoothing, seed, replicates)
            positions[response] = _entries(response, estimates[response], parent, clip)
        summaries[response] = _summary(response, settled, positions.get(response, []), clip, reason)
    return PropensityTable(
        positions=tuple(entry for response in responses for entry in positions.get(response, [])),
        responses=tuple(summaries[response] for response in responses),
    )


@dataclass(frozen=True, slots=True)
class _Ratios:
    """Arrays [K] over the positions of one response; index 0 of ``rates`` [2, K] is random traffic, 1 production."""

    rates: NDArray[np.float64]
    log_ratio: NDArray[np.float64]
    ratio_variance: NDArray[np.float64]
    log_examination: NDArray[np.float64]
    examination_variance: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Estimate:
    """One response: counts [2, K], smoothed ratios, from which weights follow, and those of the counts as they are."""

    positions: NDArray[np.int64]
    rows: NDArray[np.float64]
    positives: NDArray[np.float64]
    smoothed: _Ratios
    counted: _Ratios


def _comparable(settled: pl.DataFrame) -> pl.DataFrame:
    """Rows with a position, of the days on which both kinds of traffic were logged."""
    placed = settled.drop_nulls("position").filter(pl.col("traffic").is_in([RANDOM, PRODUCTION]))
    both = placed.group_by("day").agg(pl.col("traffic").n_unique()).filter(pl.col("traffic") == 2)
    return placed.join(both.select("day"), on="day", how="semi")


def _unusable(compared: pl.DataFrame) -> str:
    if compared.height == 0:
        return (
            "no day has settled impressions with a position in both random and production traffic: "
            "all weights are 1. Randomise a share of the sessions to estimate them."
        )
    if compared["y"].sum() == 0:
        return "no positive in the traffic that is compared: all weights are 1."
    return ""


def _estimate(compared: pl.DataFrame, smoothing: float, seed: int, replicates: int) -> _Estimate:
    positions = compared["position"].unique().sort().to_numpy().astype(np.int64)
    slot = np.searchsorted(positions, compared["position"].to_numpy())
    production = (compared["traffic"] == PRODUCTION).to_numpy().astype(np.int64)
    cell = production * len(positions) + slot
    y = compared["y"].to_numpy().astype(np.float64)
    size = 2 * len(positions)
    shape = (2, len(positions))
    rows = np.bincount(cell, minlength=size).reshape(shape).astype(np.float64)
    positives = np.bincount(cell, weights=y, minlength=size).reshape(shape).astype(np.float64)
    counts = cluster_counts(_clusters(compared), cell, y, shape, seed, replicates)
    return _Estimate(
        positions=positions,
        rows=rows,
        positives=positives,
        smoothed=_ratios(rows, positives, smoothing, spread_of(counts, smoothing)),
        counted=_ratios(rows, positives, 0.0, spread_of(counts, 0.0)),
    )


def _ratios(rows: NDArray[np.float64], positives: NDArray[np.float64], smoothing: float, spread: Spread) -> _Ratios:
    rates = smoothed_rates(rows, positives, smoothing)
    # A position without positives is uncertain, but finite.
    variance = (1 - rates) / np.maximum(positives, 0.5)
    log_rates = np.log(rates)
    examination_variance = np.maximum(variance[0] + variance[0, 0], spread.examination)
    examination_variance[0] = 0.0
    return _Ratios(
        rates=rates,
        log_ratio=log_rates[0] - log_rates[1],
        ratio_variance=np.maximum(variance.sum(axis=0), spread.exposure),
        log_examination=log_rates[0] - log_rates[0, 0],
        examination_variance=examination_variance,
    )


def _clusters(compared: pl.DataFrame) -> NDArray[np.int64]:
    """[N] code of each row's session; a row without one is a cluster of its own."""
    sessions = compared["session"]
    codes = sessions.rank("dense").cast(pl.Int64).fill_null(0).to_numpy() if sessions.dtype != pl.Null else None
    own = np.arange(compared.height, dtype=np.int64)
    if codes is None:
        return own
    codes = np.where(codes == 0, codes.max() + 1 + own, codes)
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def _entries(
    response: str, estimate: _Estimate, parent: _Estimate | None, clip: tuple[float, float]
) -> list[PositionPropensity]:
    entries = []
    log_weights = _log_weights(estimate, parent)
    for k, position in enumerate(estimate.positions.tolist()):
        smoothed, counted = estimate.smoothed, estimate.counted
        exposure = _interval(smoothed.log_ratio[k], counted.log_ratio[k], counted.ratio_variance[k])
        examination = _interval(
            smoothed.log_examination[k], counted.log_examination[k], counted.examination_variance[k]
        )
        log_weight = float(log_weights[k])
        entries.append(
            PositionPropensity(
                response=response,
                position=position,
                random_rows=int(estimate.rows[0, k]),
                random_positives=int(estimate.positives[0, k]),
                production_rows=int(estimate.rows[1, k]),
                production_positives=int(estimate.positives[1, k]),
                random_rate=float(smoothed.rates[0, k]),
                production_rate=float(smoothed.rates[1, k]),
                exposure_ratio=exposure[0],
                exposure_low=exposure[1],
                exposure_high=exposure[2],
                examination=examination[0],
                examination_low=examination[1],
                examination_high=examination[2],
                weight_ratio=math.exp(log_weight),
                weight=min(max(math.exp(log_weight), clip[0]), clip[1]),
            )
        )
    return entries


def _interval(log_estimate: float, log_counted: float, variance: float) -> tuple[float, float, float]:
    """The estimate and bounds of a ratio from logarithms."""
    margin = _Z95 * math.sqrt(variance)
    low, high = min(log_estimate, log_counted - margin), max(log_estimate, log_counted + margin)
    return math.exp(log_estimate), math.exp(low), math.exp(high)


def _log_weights(estimate: _Estimate, parent: _Estimate | None) -> NDArray[np.float64]:
    """[K] log ratios, averaged with the parent's and shrunk."""
    log_ratio, variance = estimate.smoothed.log_ratio.copy(), estimate.smoothed.ratio_variance.copy()
    if parent is not None:
        for k, position in enumerate(estimate.positions.tolist()):
            if position in parent.positions:
                j = int(np.searchsorted(parent.positions, position))
                precision, parent_precision = 1 / variance[k], 1 / parent.smoothed.ratio_variance[j]
                total = precision + parent_precision
                log_ratio[k] = (precision * log_ratio[k] + parent_precision * parent.smoothed.log_ratio[j]) / total
                variance[k] = 1 / total
    return shrunk(log_ratio, variance)


def _summary(
    response: str,
    settled: pl.DataFrame,
    entries: Sequence[PositionPropensity],
    clip: tuple[float, float],
    reason: str,
) -> ResponsePropensity:
    table = PropensityTable(positions=tuple(entries), responses=())
    position = settled["position"].fill_null(0).to_numpy()
    production = (settled["traffic"] == PRODUCTION).fill_null(False).to_numpy()
    weights = table.raw_weights(response, position, production)
    positive = settled["y"].to_numpy() == 1
    outside = [entry.position for entry in entries if not clip[0] <= entry.weight_ratio <= clip[1]]
    clipped = np.isin(position, outside) & production
    return ResponsePropensity(
        response=response,
        usable=not reason,
        reason=reason,
        rows=len(weights),
        positives=int(positive.sum()),
        clipped_share=float(clipped.sum() / max(1, production.sum())),
        mean_weight=float(weights.mean()) if len(weights) else 1.0,
        ess_rows=ess_share(weights),
        ess_positives=ess_share(weights[positive]),
    )


def _depth(response: str, parents: Mapping[str, str | None]) -> int:
    depth, parent = 0, parents.get(response)
    while parent is not None:
        depth, parent = depth + 1, parents.get(parent)
    return depth
