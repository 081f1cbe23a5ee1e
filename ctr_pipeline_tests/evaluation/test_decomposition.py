"""Parts of a score against scikit-learn's isotonic regression, and what they must be in plain cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, log_loss

from ctr_pipeline.evaluation.decomposition import decomposed_brier, decomposed_log_loss

ROWS = st.lists(
    st.tuples(st.integers(-12, 12).map(lambda z: z / 4), st.sampled_from([0, 1, -1]), st.integers(0, 3)),
    min_size=1,
    max_size=60,
)


@settings(deadline=None)
@given(ROWS, st.booleans())
def test_the_parts_are_those_of_an_independent_recalibration(
    rows: list[tuple[float, int, int]], weighted: bool
) -> None:
    z, y, w = (np.array(column) for column in zip(*rows, strict=True))
    weights = w.astype(float) if weighted else None
    found = decomposed_log_loss(z, y, weights), decomposed_brier(z, y, weights)
    kept = (y >= 0) & ((w > 0) | (not weighted))
    if not kept.any():
        assert found == (None, None)
        return
    y, p, own = y[kept], special.expit(z[kept]), w[kept].astype(float) if weighted else np.ones(kept.sum())
    best = IsotonicRegression(y_min=0, y_max=1).fit(z[kept], y, own).predict(z[kept])
    rate = np.full(len(y), np.average(y, weights=own))
    for one, score in zip(found, (log_loss, brier_score_loss), strict=True):
        assert one is not None
        of_model, of_best, of_rate = (
            score(y, np.clip(q, 1e-300, 1 - 1e-16), sample_weight=own, labels=[0, 1]) for q in (p, best, rate)
        )
        assert one.score == pytest.approx(of_model, abs=1e-9)
        assert one.miscalibration == pytest.approx(max(of_model - of_best, 0), abs=1e-9)
        assert one.discrimination == pytest.approx(of_rate - of_best, abs=1e-9)
        assert one.uncertainty == pytest.approx(of_rate, abs=1e-9)
        assert one.score == pytest.approx(one.miscalibration - one.discrimination + one.uncertainty, abs=1e-9)


def test_a_shifted_model_tells_rows_apart_as_well_but_its_rates_are_wrong() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(-3, 1, 50_000)
    y = (rng.random(len(z)) < special.expit(z)).astype(np.int8)
    right, wrong = decomposed_log_loss(z, y), decomposed_log_loss(z + 1, y)
    assert right is not None
    assert wrong is not None
    assert wrong.discrimination == pytest.approx(right.discrimination, abs=1e-12)
    assert right.miscalibration < 0.001 < 0.01 < wrong.miscalibration
    same = decomposed_brier(np.full(4, -1.0), np.array([0, 1, 0, -1]))
    assert same is not None
    assert same.discrimination == pytest.approx(0, abs=1e-15)
