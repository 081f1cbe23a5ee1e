"""Isotonic calibration in the exported graph: named in a spec, fitted, exported, scored, read back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.calibration import IsotonicCalibrator, fit_calibrators
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
    found = bundle.score(*shop.rows(500, seed=2))
    for column, task in enumerate(shop.layout.tasks):
        expected = special.expit(fitted[task].apply(found.logits[:, column]))
        assert found.probabilities[:, column] == pytest.approx(expected, abs=2e-6)
        order = np.argsort(found.logits[:, column])
        # ONNX Runtime's sigmoid is exact to some 1e-7 only.
        assert np.diff(found.probabilities[order, column]).min() > -3e-7
