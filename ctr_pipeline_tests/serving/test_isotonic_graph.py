"""Calibration in the exported graph: of one kind or several, along the funnel; fitted, exported, scored, read back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.calibration import (
    BetaCalibrator,
    IdentityCalibrator,
    IsotonicCalibrator,
    PlattCalibrator,
    calibrated_logits,
    fit_calibrators,
)
from ctr_pipeline.serving.export import check_parity, reference_scores
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.serving.shop import SPEC, Shop


def test_the_graph_holds_the_lines_of_all_tasks(shop: Shop, tmp_path: Path) -> None:
    spec = parse_spec(f"{SPEC}calibration: {{kind: isotonic, min_positives: 50}}\n", "test")
    logits = reference_scores(shop.ranker, shop.calibrators, shop.layout, *shop.rows(4000)).logits
    labels = (np.random.default_rng(0).random(logits.shape) < special.expit(0.3 * logits - 1)).astype(np.int8)
    labels[300:, 1] = -1  # too few for a line
    fitted = fit_calibrators(spec.calibration, shop.layout.tasks, logits, labels)
    knots = [len(found.logits) for found in fitted.values() if isinstance(found, IsotonicCalibrator)]
    assert knots[0] > 4
    assert knots[1] == 1
    isotonic = replace(shop, spec=spec, calibrators=fitted)
    bundle = isotonic.export(tmp_path / "bundle")
    parity = check_parity(bundle, isotonic.ranker, fitted, *shop.rows(300, seed=1))
    assert parity.passed, parity
    assert bundle.calibrators() == fitted
    numeric, ids = shop.rows(500, seed=2)
    found = bundle.score(numeric, ids)
    own = [fitted[task] for task in shop.layout.tasks]
    expected_of_all = special.expit(calibrated_logits(own, shop.layout.parents, found.logits, ids))
    for column in range(len(own)):
        expected = expected_of_all[:, column]
        assert found.probabilities[:, column] == pytest.approx(expected, abs=2e-6)
        if shop.layout.parents[column] >= 0:
            continue
        order = np.argsort(found.logits[:, column])
        # ONNX Runtime's sigmoid is exact to some 1e-7 only.
        assert np.diff(found.probabilities[order, column]).min() > -3e-7


def test_calibrators_of_several_kinds_and_no_step_likelier_than_the_one_before(shop: Shop, tmp_path: Path) -> None:
    kinds = [PlattCalibrator(a=0.8, b=-1.0), BetaCalibrator(a=0.7, b=1.4, c=2.0), IdentityCalibrator()]
    mixed = replace(shop, calibrators=dict(zip(shop.layout.tasks, kinds, strict=True)))
    bundle = mixed.export(tmp_path / "bundle")
    parity = check_parity(bundle, mixed.ranker, mixed.calibrators, *shop.rows(300, seed=1))
    assert parity.passed, parity
    assert bundle.calibrators() == mixed.calibrators
    numeric, ids = shop.rows(500, seed=2)
    found = bundle.score(numeric, ids)
    alone = special.expit(np.column_stack([own.apply(found.logits[:, n]) for n, own in enumerate(kinds)]))
    together = special.expit(calibrated_logits(kinds, shop.layout.parents, found.logits, ids))
    np.testing.assert_allclose(found.probabilities, together, atol=1e-6)
    for task, parent in enumerate(shop.layout.parents):
        if parent >= 0:
            assert (found.probabilities[:, task] <= found.probabilities[:, parent] + 1e-6).all()
    assert (alone - together).max() > 0.01
