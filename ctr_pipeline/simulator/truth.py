"""What is known about the simulated marketplace because it is simulated: ceilings, effects, delays, noise.

Nothing of the pipeline reads the truth. From it follows how good a model could be, and how close one comes.
"""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.simulator.days import day_files, truth_file
from ctr_pipeline.simulator.expected import ceiling, metrics
from ctr_pipeline.simulator.laws import SLOTS
from ctr_pipeline.simulator.observables import COLUMNS, position_unknown, predict_from_observables
from ctr_pipeline.simulator.outcome_draws import STEPS
from ctr_pipeline.simulator.world import SimulatorError
from ctr_pipeline.spec.fields import DAY_US, MICROSECONDS

CLICK_WINDOW_US, LATER_WINDOW_US = DAY_US, 14 * DAY_US
"""Windows of the specs: a click counts for 24 h after the impression, later steps for 14 d after the click."""

CDF_SECONDS = (60, 3_600, 21_600, 86_400, 259_200, 604_800, 1_209_600)
QUANTILES = (0.1, 0.5, 0.9, 0.99)
OBSERVABLE_ROWS = 1_500_000
"""Impressions on which the ceiling given the observables is fitted; a longer range is thinned to every k-th page."""

Report = dict[str, Any]


def truth_report(
    root: Path,
    first: date,
    last: date,
    scores: pl.DataFrame | None = None,
    truth_ids: Callable[[str], pl.Expr] | None = None,
) -> Report:
    """Figures of the truth of the days ``first`` to ``last`` below ``root``, as plain numbers for JSON.

    Keys: ``days``, ``rows``; ``ceilings`` (``bayes``: knows every probability; ``position_unknown``: all but the
    position; ``observables``: only what the log shows, see :mod:`ctr_pipeline.simulator.observables`), each with
    ``rate``, ``auc``, ``ap`` and ``ne`` of the click in expectation over labels; ``steps``: the Bayes ceiling of every
    later step over all impressions; ``positions``: see :func:`position_effects`; ``delays``: see :func:`delay_report`;
    ``noise``: what the log misstates; ``incidents``: impressions by incident; ``scores``: see :func:`compare_scores`.

    Args:
        root: folder that the simulator wrote.
        first: first day.
        last: last day, included.
        scores: ``impression_id`` and ``score``, predicted click probabilities in (0, 1), for any of the impressions.
        truth_ids: makes the ids of ``scores`` from the column of that name, where ids were replaced by hashes.

    Raises:
        SimulatorError: the truth of a day is not there, or ``scores`` are not usable.
    """
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    absent = [day for day in days if not truth_file(root, day).exists()]
    if absent or not days:
        raise SimulatorError(
            f"{root}: the truth of {absent[0] if absent else first} is not there. Simulate the days {first} to {last} "
            "first, or ask for days that are."
        )
    truth = pl.concat([pl.scan_parquet(truth_file(root, day)) for day in days])
    funnel = _funnel(truth)
    numbers = truth.select("click_probability", "relevance", "device_type", *_probabilities(funnel)).collect()
    p = numbers["click_probability"].to_numpy().astype(np.float64)
    relevance = numbers["relevance"].to_numpy().astype(np.float64)
    device = numbers["device_type"].rank("dense").to_numpy().astype(np.int32)
    report: Report = {
        "days": {"first": str(first), "last": str(last)},
        "rows": len(p),
        "ceilings": {
            "bayes": ceiling(p),
            "position_unknown": metrics(position_unknown(relevance, p, device), p),
            "observables": _observable_ceiling(root, days, len(p)),
        },
        "steps": {},
        "positions": position_effects(root, days),
        "delays": delay_report(root, days),
        "noise": _noise(truth),
        "incidents": _incidents(truth),
    }
    joint = p
    for step, column in zip(funnel[1:], _probabilities(funnel), strict=True):
        joint = joint * numbers[column].to_numpy()
        report["steps"][step] = ceiling(joint)
    if scores is not None:
        report["scores"] = compare_scores(truth, scores, truth_ids)
    return report


def compare_scores(
    truth: pl.LazyFrame, scores: pl.DataFrame, truth_ids: Callable[[str], pl.Expr] | None = None
) -> Report:
    """How close predicted click probabilities come to the true ones, on the impressions that ``scores`` has.

    ``rows``; ``model`` and ``bayes``: rate, auc, ap, ne in expectation over labels; ``excess_ne``: E[KL(p‖score)] / h(π),
    the part of the model's NE above that of the true probabilities; ``captured``: (1 - NE of the model) / (1 - NE of Bayes);
    ``predicted_rate``: mean score.
    """
    if not {"impression_id", "score"} <= set(scores.columns):
        raise SimulatorError(f"scores have the columns {scores.columns}; give `impression_id` and `score`.")
    ids = truth_ids("impression_id") if truth_ids else pl.col("impression_id")
    known = truth.select(ids.alias("impression_id"), "click_probability").collect()
    joined = scores.select("impression_id", "score").join(known, on="impression_id", how="inner")
    if joined.is_empty():
        raise SimulatorError(
            "none of the scored impressions is in the truth of these days. Give scores of simulated impressions, with "
            "the same kind of ids (hashed ids need `truth_ids`)."
        )
    q, p = joined["score"].to_numpy().astype(np.float64), joined["click_probability"].to_numpy().astype(np.float64)
    outside = ~((q > 0) & (q < 1))
    if outside.any():
        raise SimulatorError(
            f"score {q[np.argmax(outside)]} of row {int(np.argmax(outside))} is not between 0 and 1: give probabilities."
        )
    model, bayes = metrics(q, p), ceiling(p)
    return {
        "rows": len(p),
        "predicted_rate": float(q.mean()),
        "model": model,
        "bayes": bayes,
        "excess_ne": model["ne"] - bayes["ne"],
        "captured": (1 - model["ne"]) / (1 - bayes["ne"]),
    }


def position_effects(root: Path, days: list[date]) -> list[Report]:
    """Effects of each position, from the truth and as random sessions show them.

    ``examination``: mean true examination in random sessions, relative to position 1; ``observed`` and
    ``observed_error``: ratio of logged click rates in random sessions to that of position 1, and its standard error;
    ``ips`` and ``observed_ips``: click rate in random over that in production sessions, true and logged.
    """
    frames = []
    for day in days:
        clicks = _clicked(root, day)
        frames.append(
            pl.scan_parquet(truth_file(root, day))
            .join(clicks.lazy(), on="impression_id", how="left")
            .group_by("position", "traffic")
            .agg(
                rows=pl.len(),
                seen=pl.col("examination").cast(pl.Float64).sum(),
                p=pl.col("click_probability").cast(pl.Float64).sum(),
                clicks=pl.col("clicked").is_not_null().sum(),
            )
            .collect()
        )
    total = pl.concat(frames).group_by("position", "traffic").sum().sort("position", "traffic")
    table = {(row["position"], row["traffic"]): row for row in total.to_dicts()}
    return [_position(position, table) for position in sorted({position for position, _ in table})]


def _position(position: int, table: dict[tuple[int, str], dict[str, float]]) -> Report:
    here, base, production = (table.get(key) for key in ((position, "random"), (1, "random"), (position, "production")))

    def rate(row: dict[str, float] | None, of: str) -> float | None:
        return row[of] / row["rows"] if row else None

    observed = _ratio(rate(here, "clicks"), rate(base, "clicks"))
    clicks = (here["clicks"], base["clicks"]) if here and base else (0, 0)
    error = observed * np.sqrt(1 / clicks[0] + 1 / clicks[1]) if observed and min(clicks) > 0 else None
    return {
        "position": position,
        "random_rows": int(here["rows"]) if here else 0,
        "examination": _ratio(rate(here, "seen"), rate(base, "seen")),
        "observed": observed,
        "observed_error": float(error) if error is not None and position > 1 else None,
        "ips": _ratio(rate(here, "p"), rate(production, "p")),
        "observed_ips": _ratio(rate(here, "clicks"), rate(production, "clicks")),
    }


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def _clicked(root: Path, day: date) -> pl.DataFrame:
    """Ids of the impressions of ``day`` with a logged click inside the window, whenever it arrived."""
    impressions, events = (pl.scan_parquet(file) for file in day_files(root, day))
    return (
        events.filter(pl.col("event_type") == "click")
        .join(impressions.select("impression_id", "ts").unique("impression_id"), on="impression_id")
        .filter((pl.col("event_ts") - pl.col("ts")).dt.total_microseconds() < CLICK_WINDOW_US)
        .select("impression_id", clicked=True)
        .unique("impression_id")
        .collect()
    )


def delay_report(root: Path, days: list[date]) -> Report:
    """True delays of every step in seconds, and the lag with which the log received events.

    By step: ``happened`` (count), ``since_previous``: quantiles and the distribution function at :data:`CDF_SECONDS` of
    the time since the step before (the impression, for clicks), and ``out_of_window_share``. ``ingest_lag``: the same of
    the logged events.
    """
    truth = pl.concat([pl.scan_parquet(truth_file(root, day)) for day in days])
    funnel = _funnel(truth)
    times = truth.filter(pl.col("click_ts").is_not_null()).select("ts", *(f"{step}_ts" for step in funnel)).collect()
    report: Report = {}
    for number, step in enumerate(funnel):
        previous = f"{funnel[number - 1]}_ts" if number else "ts"
        anchor, window = ("click_ts", LATER_WINDOW_US) if number else ("ts", CLICK_WINDOW_US)
        of_step = times.filter(pl.col(f"{step}_ts").is_not_null())
        delay = _microseconds(of_step, f"{step}_ts", previous)
        late = _microseconds(of_step, f"{step}_ts", anchor) >= window
        report[step] = {
            "happened": len(delay),
            "since_previous": _distribution(delay),
            "out_of_window_share": float(late.mean()) if len(delay) else None,
        }
    events = pl.concat([pl.scan_parquet(day_files(root, day)[1]) for day in days]).collect()
    report["ingest_lag"] = _distribution(_microseconds(events, "ingest_ts", "event_ts"))
    return report


def _microseconds(frame: pl.DataFrame, later: str, earlier: str) -> NDArray[np.int64]:
    delay: NDArray[np.int64] = (
        frame.select((pl.col(later) - pl.col(earlier)).dt.total_microseconds()).to_series().to_numpy()
    )
    return delay


def _distribution(delay: NDArray[np.int64]) -> Report:
    seconds = delay / MICROSECONDS["s"]
    if len(seconds) == 0:
        return {"quantiles": None, "cdf": None}
    return {
        "quantiles": {str(q): float(np.quantile(seconds, q)) for q in QUANTILES},
        "cdf": {str(limit): float((seconds <= limit).mean()) for limit in CDF_SECONDS},
    }


def _observable_ceiling(root: Path, days: list[date], rows: int) -> Report:
    every = max(1, -(-rows // OBSERVABLE_ROWS))
    sampled = []
    for day in days:
        page = pl.int_range(pl.len()) // SLOTS
        truth = (
            pl.scan_parquet(truth_file(root, day))
            .select("impression_id", "click_probability", "relevance", page=page)
            .filter(pl.col("page") % every == 0)
        )
        log = pl.scan_parquet(day_files(root, day)[0]).select("impression_id", *COLUMNS).unique("impression_id")
        sampled.append(truth.join(log, on="impression_id", how="inner", maintain_order="left").collect())
    frame = pl.concat(sampled)
    p = frame["click_probability"].to_numpy().astype(np.float64)
    relevance = frame["relevance"].to_numpy().astype(np.float64)
    pages = frame["page"].to_numpy().astype(np.int32) // np.int32(every)
    return {"rows": len(p), **metrics(predict_from_observables(frame, relevance, p, pages), p)}


def _noise(truth: pl.LazyFrame) -> Report:
    """Clicked impressions by how their advertiser reports, and how many were misstated."""
    clicked = truth.filter(pl.col("click_ts").is_not_null())
    kinds = clicked.group_by("advertiser_noise").len().collect()
    counts = clicked.select(clicks=pl.len(), fired=pl.col("fired").sum(), lost=pl.col("lost").sum()).collect()
    return {
        **{name: int(value) for name, value in counts.row(0, named=True).items()},
        "clicks_by_advertiser_noise": {kind: int(count) for kind, count in sorted(kinds.iter_rows())},
    }


def _incidents(truth: pl.LazyFrame) -> Report:
    counts = truth.filter(pl.col("incidents").is_not_null()).group_by("incidents").len().collect()
    return {name: int(count) for name, count in sorted(counts.iter_rows())}


def _funnel(truth: pl.LazyFrame) -> tuple[str, ...]:
    columns = truth.collect_schema().names()
    return next(steps for steps in STEPS.values() if f"{steps[-1]}_ts" in columns)


def _probabilities(funnel: tuple[str, ...]) -> list[str]:
    return [f"{step}_probability" for step in funnel[1:]]
