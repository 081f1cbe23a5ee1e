"""Metrics by day are those of the day's rows by themselves."""

import json

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.evaluation import evaluate, paired_difference
from ctr_pipeline.evaluation.by_day import metrics_by_day
from ctr_pipeline.evaluation.metrics import EvaluationError

DAY = 86_400_000_000
FIRST = 20_000 * DAY


def test_each_day_is_measured_by_itself() -> None:
    draw = np.random.default_rng(0)
    n = 3000
    ts = FIRST + draw.integers(0, 3 * DAY, n)
    # A day without rows, an instant on its very edge.
    ts[ts >= FIRST + DAY] += DAY
    ts[0] = FIRST + DAY - 1
    z = draw.normal(-1.5, 1, n)
    y = (draw.random(n) < special.expit(z)).astype(int)
    y[draw.random(n) < 0.1] = -1
    users, champion = draw.integers(-1, 400, n), z + draw.normal(0, 0.5, n)
    found = metrics_by_day(z, y, ts, users, champion, seed=3, calibrated_on=500)
    assert [of.day for of in found] == ["2024-10-04", "2024-10-06", "2024-10-07"]
    assert sum(of.rows + of.masked for of in found) == n
    for number, of in zip((0, 2, 3), found, strict=True):
        rows = (ts - FIRST) // DAY == number
        expected = evaluate(z[rows], y[rows], users[rows], seed=3, calibrated_on=500)
        assert (of.rows, of.masked, of.positives) == (expected.rows, expected.masked, expected.positives)
        assert (of.auc, of.ne, of.oe) == (expected.auc, expected.ne, expected.oe)
        assert of.ne_against_champion == paired_difference(
            z[rows], champion[rows], y[rows], users[rows], seed=3, replicates=100
        )
        json.dumps(of.to_json(), allow_nan=False)


def test_a_day_without_outcomes_has_none_of_what_they_define() -> None:
    z, y, ts = np.zeros(30), np.zeros(30, int), np.full(30, FIRST)
    [of] = metrics_by_day(z, y, ts, seed=0)
    assert of.auc is of.ne is of.ne_against_champion is None
    assert of.oe is not None
    assert of.oe.value == 0
    assert metrics_by_day(z[:0], y[:0], ts[:0], seed=0) == ()
    with pytest.raises(EvaluationError, match="ts: expected shape"):
        metrics_by_day(z, y, ts[1:], seed=0)
