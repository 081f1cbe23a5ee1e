"""Scored rows as a table: what was shown, what came of it, and what the model said, a row an impression and split."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Reals

SCORES_TABLE = "scores"
"""Name of the table; its days are those of the retrains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """A column of few different texts."""

    codes: NDArray[np.integer[Any]]
    """[N] which of ``values`` each row has."""
    values: Sequence[str]
    """The texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSplit:
    """The packed rows of a split with their scores. N rows, T tasks."""

    split: str
    position: NDArray[np.int16]
    """[N] from 1; 0 where none was logged."""
    clusters: NDArray[np.int64]
    """[N] code of what intervals resample, -1 for none."""
    groups: NDArray[np.int64] | None
    """[N] code of what rows are ranked within, -1 for none."""
    labels: NDArray[np.int8]
    """[N, T] 1 or 0; -1 where not settled."""
    logits: Reals
    """[N, T] as the model gives them."""
    calibrated: Float64s
    """[N, T] logits of the probabilities that are served."""
    logged: Float64s | None
    """[N, T] calibrated logits that know the logged position; None where the model learns nothing of it."""
    texts: Mapping[str, Texts]
    """By column, the declared slices and the categories."""


def slice_columns(titles: Sequence[str]) -> dict[str, str]:
    """By title of a slice its column: ``slice_`` and the title in small letters, with ``_`` for all but a-z, 0-9.

    Columns that would be the same get a number.
    """
    found: dict[str, str] = {}
    for title in titles:
        name = "slice_" + (re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_") or "unnamed")
        taken, number = set(found.values()), 2
        column = name
        while column in taken:
            column, number = f"{name}_{number}", number + 1
        found[title] = column
    return found


def score_rows(
    scored: ScoredSplit, at: slice, shown: pl.DataFrame, tasks: Sequence[str], *, model_sha256: str, run_id: str
) -> pl.DataFrame:
    """The rows ``at`` of a split, as the table has them.

    Args:
        scored: The split.
        at: Which of its rows.
        shown: The same rows of ``impressions``: ``impression_id``, ``ts``, ``day``, ``traffic``.
        tasks: T names.
        model_sha256: Of the weights.
        run_id: Of the MLflow run.

    Returns:
        ``split``, ``impression_id``, ``ts``, ``impression_day``, ``position`` and ``traffic`` (null where not logged),
        ``cluster``, ``group_code``, the texts, and for each task ``label_…`` (null where not settled), ``logit_…``,
        ``raw_probability_…``, ``probability_…`` (calibrated) and ``logged_probability_…``; ``model_sha256``, ``mlflow_run_id``.
    """
    columns: dict[str, Any] = {
        "split": pl.repeat(scored.split, shown.height, dtype=pl.String, eager=True),
        "impression_id": shown["impression_id"],
        "ts": shown["ts"],
        "impression_day": shown["day"],
        "position": _known(scored.position[at], scored.position[at] > 0),
        "traffic": shown["traffic"],
        "cluster": _known(scored.clusters[at], scored.clusters[at] >= 0),
    }
    if scored.groups is not None:
        columns["group_code"] = _known(scored.groups[at], scored.groups[at] >= 0)
    columns |= {
        name: pl.Series(texts.values, dtype=pl.String).gather(np.ascontiguousarray(texts.codes[at]))
        for name, texts in scored.texts.items()
    }
    for column, task in enumerate(tasks):
        own = scored.labels[at, column]
        columns[f"label_{task}"] = _known(own, own >= 0)
        columns[f"logit_{task}"] = np.asarray(scored.logits[at, column], dtype=np.float32)
        columns[f"raw_probability_{task}"] = special.expit(np.asarray(scored.logits[at, column], dtype=np.float64))
        columns[f"probability_{task}"] = special.expit(scored.calibrated[at, column])
        if scored.logged is not None:
            columns[f"logged_probability_{task}"] = special.expit(scored.logged[at, column])
    for name, value in (("model_sha256", model_sha256), ("mlflow_run_id", run_id)):
        columns[name] = pl.repeat(value, shown.height, dtype=pl.String, eager=True)
    return pl.DataFrame(columns)


def _known(values: NDArray[Any], known: NDArray[np.bool_]) -> pl.Series:
    series = pl.Series(np.ascontiguousarray(values))
    return pl.select(pl.when(pl.Series(known)).then(series)).to_series()
