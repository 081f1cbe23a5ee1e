"""The rows of the table of scores, and the figures of the evaluation from it by SQL."""

from datetime import date

import duckdb
import numpy as np
import polars as pl
import pytest
from scipy import special

from ctr_pipeline.evaluation import evaluate
from ctr_pipeline.evaluation.scores import ScoredSplit, Texts, score_rows, slice_columns

N = 3000


def scored(seed: int = 0) -> ScoredSplit:
    draw = np.random.default_rng(seed)
    logits = np.round(draw.normal(-1.5, 1, (N, 2)), 1)
    labels = (draw.random((N, 2)) < special.expit(logits)).astype(np.int8)
    labels[draw.random((N, 2)) < 0.1] = -1
    return ScoredSplit(
        split="test",
        position=draw.integers(0, 4, N).astype(np.int16),
        clusters=draw.integers(-1, 300, N),
        groups=draw.integers(-1, 900, N),
        labels=labels,
        logits=logits.astype(np.float32) * 1.3,
        calibrated=logits,
        logged=None,
        texts={"slice_device": Texts(codes=draw.integers(0, 2, N), values=["phone", "desk top"])},
    )


def frame(of: ScoredSplit) -> pl.DataFrame:
    """The table, written in two pieces."""
    shown = pl.DataFrame({
        "impression_id": [f"{n:x}" for n in range(N)], "ts": range(N), "traffic": ["random", None] * (N // 2),
    }).with_columns(day=pl.lit(date(2026, 1, 2)))  # fmt: skip
    pieces = (slice(0, 1000), slice(1000, N))
    return pl.concat(score_rows(of, at, shown[at], ["click", "buy"], model_sha256="ab", run_id="r1") for at in pieces)


def test_rows_hold_what_was_given_and_null_where_nothing_was() -> None:
    of = scored()
    table = frame(of)
    assert table.columns == [
        "split", "impression_id", "ts", "impression_day", "position", "traffic", "cluster", "group_code", "slice_device",
        *(f"{kind}_{task}" for task in ("click", "buy") for kind in ("label", "logit", "raw_probability", "probability")),
        "model_sha256", "mlflow_run_id",
    ]  # fmt: skip
    for name, values, absent in (
        ("position", of.position, 0), ("cluster", of.clusters, -1), ("group_code", of.groups, -1),
        ("label_click", of.labels[:, 0], -1), ("label_buy", of.labels[:, 1], -1),
    ):  # fmt: skip
        assert np.array_equal(table[name].fill_null(absent).to_numpy(), values), name
        assert table[name].null_count() == np.count_nonzero(values == absent), name
    assert np.array_equal(table["logit_buy"].to_numpy(), of.logits[:, 1])
    assert table["raw_probability_buy"].to_numpy() == pytest.approx(
        special.expit(of.logits[:, 1].astype(float)), abs=1e-15
    )
    assert table["probability_buy"].to_numpy() == pytest.approx(special.expit(of.calibrated[:, 1]), abs=1e-15)
    device = np.array(["phone", "desk top"])[of.texts["slice_device"].codes]
    assert np.array_equal(table["slice_device"].to_numpy(), device)
    assert table["traffic"].to_list() == ["random", None] * (N // 2)
    assert table["mlflow_run_id"].unique().to_list() == ["r1"]


def test_the_figures_of_the_evaluation_follow_by_sql() -> None:
    of = scored(1)
    database = duckdb.connect()
    database.register("scored", frame(of))
    for column, task in enumerate(("click", "buy")):
        expected = evaluate(of.calibrated[:, column], of.labels[:, column], of.clusters, seed=0)
        [found] = database.sql(
            f"""
            WITH settled AS (SELECT label_{task} AS y, probability_{task} AS p FROM scored WHERE label_{task} IS NOT NULL),
            ranked AS (
                SELECT y, p, rank() OVER (ORDER BY p) + (count(*) OVER (PARTITION BY p) - 1) / 2.0 AS midrank,
                    count(*) OVER above AS shown, sum(y) OVER above AS hits
                FROM settled WINDOW above AS (ORDER BY p DESC RANGE UNBOUNDED PRECEDING)
            )
            SELECT count(*), sum(y), avg(-ln(CASE WHEN y = 1 THEN p ELSE 1 - p END)), sum(y) / sum(p),
                (sum(midrank) FILTER (y = 1) - sum(y) * (sum(y) + 1) / 2) / (sum(y) * (count(*) - sum(y))),
                sum(hits / shown) FILTER (y = 1) / sum(y)
            FROM ranked
            """
        ).fetchall()
        assert found[:2] == (expected.rows, expected.positives)
        values = [
            interval.value for interval in (expected.log_loss, expected.oe, expected.auc, expected.ap) if interval
        ]
        assert list(map(float, found[2:])) == pytest.approx(values, rel=1e-12)


def test_columns_of_slices_have_names_of_their_own() -> None:
    titles = ["ad age", "Ad-Age", "ad_age", "Gerät (neu)", "€"]
    assert slice_columns(titles) == {
        "ad age": "slice_ad_age", "Ad-Age": "slice_ad_age_2", "ad_age": "slice_ad_age_3",
        "Gerät (neu)": "slice_ger_t_neu", "€": "slice_unnamed",
    }  # fmt: skip
