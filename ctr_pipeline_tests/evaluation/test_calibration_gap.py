"""The interval of the expected calibration error. Its value: test_oracles.py."""

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.calibration.labelled import labelled
from ctr_pipeline.evaluation.calibration_gap import expected_calibration_error
from ctr_pipeline.evaluation.metrics import EvaluationError, rank
from ctr_pipeline.evaluation.reliability import bins_of


@pytest.mark.parametrize(
    ("base", "shift", "slope", "spread"),
    [(-3.0, 0.0, 1.0, 0.8), (-3.0, 0.3, 1.0, 0.8), (-4.0, 0.0, 1.3, 0.5), (-1.0, 0.0, 0.9, 1.5)],
)
def test_it_holds_the_error_of_calibrated_and_of_other_models(
    base: float, shift: float, slope: float, spread: float
) -> None:
    draw, held, worlds, users, each = np.random.default_rng(3), 0, 250, 800, 8
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    for seed in range(worlds):
        z = draw.normal(base, 1, (users, each))
        rates = sum(w * special.expit(z + spread * n) for n, w in zip(nodes, weights / weights.sum(), strict=True))
        y = (draw.random(z.shape) < special.expit(z + draw.normal(0, spread, (users, 1)))).astype(int).ravel()
        logits = (base + (special.logit(rates) - base) * slope + shift).ravel()
        rows = labelled(logits, y)
        bins = bins_of(rows, rank(rows.logits))
        truth = np.abs(np.bincount(bins, weights=rates.ravel() - special.expit(logits))).sum() / len(y)
        found = expected_calibration_error(logits, y, np.repeat(np.arange(users), each), seed=seed)
        assert found is not None
        held += found.low <= truth + 1e-12 and truth <= found.high
    # .95, and what 250 worlds can tell.
    assert 0.92 <= held / worlds <= 0.99


def test_few_users_have_no_interval_and_no_positives_no_value() -> None:
    z, y = np.linspace(-1, 1, 40), np.arange(40) % 2
    few = expected_calibration_error(z, y, np.arange(40) % 4, seed=0)
    assert few is not None
    assert np.isinf([few.low, few.high]).all()
    assert expected_calibration_error(z, np.zeros(40, int), seed=0) is None
    with pytest.raises(EvaluationError, match="clusters: expected shape"):
        expected_calibration_error(z, y, y[1:], seed=0)
    assert expected_calibration_error(z, y, seed=1) == expected_calibration_error(z, y, seed=1)
