"""`ctr experiment gap`: why a test measured another effect than was predicted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ctr_pipeline.commands.experiment_rows import ExperimentError
from ctr_pipeline.evaluation.metrics import Interval
from ctr_pipeline.experiments.gap import ReplayedRows, offline_online_gap, population_factors

FORMAT = 1

OPTIONAL = ("reward_then", "weight_served", "position_factor", "user")


def gap(replay: Path, reading: Mapping[str, Any], population: str | None) -> dict[str, Any]:
    """Takes the difference between a predicted and a measured effect apart.

    Args:
        replay: Parquet file of replayed rows: ``reward`` and ``weight`` (``ctr experiment value --rows`` writes them), and where they
            are known ``reward_then`` (as it was known when the effect was predicted), ``weight_served`` (the weight by the scores
            that were served), ``position_factor`` (what the weight is multiplied with where positions are accounted for) and
            ``user`` (whole numbers).
        reading: What ``ctr experiment read --json`` wrote.
        population: Column of the replayed rows by which the test's traffic differs; the reading has its slices (``--by``).

    Returns:
        The gap, and which parts nothing is known of.

    Raises:
        ExperimentError: the file or the reading is not usable.
        EvaluationError: the rows are not usable.
    """
    try:
        frame = pl.read_parquet(replay)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "it cannot be read as Parquet"
        raise ExperimentError(f"{replay.name}: {reason}. `ctr experiment value --rows` writes such a file.") from None
    missing = [name for name in ("reward", "weight") if name not in frame.columns]
    if missing:
        raise ExperimentError(f"{replay.name}: there is no column `{missing[0]}`; found {', '.join(frame.columns)}")
    found = {name: frame[name].to_numpy() if name in frame.columns else None for name in OPTIONAL}
    factors = None
    if population is not None:
        if population not in frame.columns:
            raise ExperimentError(f"{replay.name}: there is no column `{population}`; found {', '.join(frame.columns)}")
        kinds = frame[population].cast(pl.String).fill_null("None").to_numpy()
        factors = population_factors(kinds, _shares(reading, population))
    rows = ReplayedRows(
        reward=frame["reward"].to_numpy(),
        weight=frame["weight"].to_numpy(),
        reward_then=found["reward_then"],
        population=factors,
        weight_served=found["weight_served"],
        position=found["position_factor"],
        units=found["user"],
    )
    result = offline_online_gap(rows, _measured(reading))
    known = {
        "label maturity": found["reward_then"] is not None,
        "population": factors is not None,
        "skew": found["weight_served"] is not None,
        "position": found["position_factor"] is not None,
    }
    return {
        "format": FORMAT,
        "rows": frame.height,
        **result.to_json(),
        "not_looked_at": [n for n, is_known in known.items() if not is_known],
    }


def _measured(reading: Mapping[str, Any]) -> Interval:
    try:
        return Interval.from_json(reading["reading"]["relative"])
    except (KeyError, TypeError):
        raise ExperimentError(
            "the reading has no relative effect: give the file that `ctr experiment read --json` wrote"
        ) from None


def _shares(reading: Mapping[str, Any], column: str) -> dict[str, float]:
    """Impressions of the test by value of a column."""
    slices = [one for one in reading.get("slices", ()) if one["slice"] == column]
    if not slices:
        raise ExperimentError(f"the reading has no slices by {column}: read it with `--by {column}`")
    return {one["value"]: float(one["impressions"]) for one in slices}
