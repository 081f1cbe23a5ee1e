"""Offsets by a field in the exported graph: fitted, exported, scored, read back."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from scipy import special

from ctr_pipeline.calibration import OffsetCalibrator, PlattCalibrator, calibrated_logits, fit_calibrators
from ctr_pipeline.features.layout import MISSING_ROW, UNKNOWN_ROW
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.export import check_parity, reference_scores
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.serving.shop import SPEC, Shop

AD = 0
"""Column of the field."""


@pytest.fixture(scope="module")
def by_ad(shop: Shop) -> Shop:
    """The shop with offsets by the ad, of labels whose rates differ from ad to ad; the last ad has no row."""
    spec = parse_spec(f"{SPEC}calibration: {{kind: platt, offsets_by: ad}}\n", "test")
    numeric, ids = shop.rows(6000)
    ids[:, AD] %= shop.layout.ids[AD].rows - 1
    logits = reference_scores(shop.ranker, shop.calibrators, shop.layout, numeric, ids).logits
    effect = np.array([0.9, 0.9, -1.2, 1.0, 0.3])[ids[:, AD]]
    labels = (np.random.default_rng(0).random(logits.shape) < special.expit(logits - 3 + effect[:, None])).astype(
        np.int8
    )
    labels[:, 2] = 0  # a task of one class has no offsets
    fitted = fit_calibrators(spec.calibration, shop.layout.tasks, logits, labels, layout=shop.layout, ids=ids)
    return replace(shop, spec=spec, calibrators=fitted)


@pytest.fixture(scope="module")
def exported(by_ad: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return by_ad.export(tmp_path_factory.mktemp("by_ad") / "bundle")


def test_the_graph_adds_the_offset_of_each_row_and_keeps_the_funnel(by_ad: Shop, exported: Bundle) -> None:
    own = [by_ad.calibrators[task] for task in by_ad.layout.tasks]
    offsets = [one for one in own if isinstance(one, OffsetCalibrator)]
    assert [one.values for one in offsets] == [(2, 3, 4), (2, 3, 4), ()]
    parity = check_parity(exported, by_ad.ranker, by_ad.calibrators, *by_ad.rows(300, seed=1))
    assert parity.passed, parity
    numeric, ids = by_ad.rows(800, seed=2)
    assert set(ids[:, AD]) == set(range(by_ad.layout.ids[AD].rows))
    found = exported.score(numeric, ids)
    expected = calibrated_logits(own, by_ad.layout.parents, found.logits, ids)
    np.testing.assert_allclose(found.probabilities, special.expit(expected), atol=1e-6)
    assert (found.probabilities[:, 1] <= found.probabilities[:, 0] + 1e-6).all()
    # The offsets matter, but not to a missing or unknown value, nor to one that the rows of the fit did not have.
    without = calibrated_logits([one.curve for one in offsets], by_ad.layout.parents, found.logits, ids)
    plain = np.isin(ids[:, AD], [MISSING_ROW, UNKNOWN_ROW, by_ad.layout.ids[AD].rows - 1])
    assert np.array_equal(expected[plain], without[plain])
    assert np.abs(special.expit(expected) - special.expit(without))[~plain].max() > 0.03
    alone = np.concatenate([exported.score(numeric[n : n + 1], ids[n : n + 1]).probabilities for n in range(40)])
    np.testing.assert_allclose(alone, found.probabilities[:40], atol=1e-6)


def test_the_bundle_knows_its_offsets_and_other_bundles_have_no_table(
    by_ad: Shop, exported: Bundle, bundle: Bundle
) -> None:
    assert exported.calibrators() == by_ad.calibrators
    assert "offsets_by: ad" in (exported.directory / "spec.yaml").read_text()
    tables = [
        [
            weight.name
            for weight in onnx.load(made.directory / "model.onnx").graph.initializer
            if "offsets." in weight.name
        ]
        for made in (exported, bundle)
    ]
    assert [bool(names) for names in tables] == [True, False]


def test_calibrators_with_and_without_offsets_stand_beside_each_other(by_ad: Shop) -> None:
    mixed = by_ad.calibrators | {"click": PlattCalibrator(a=0.9, b=-2.0)}
    numeric, ids = by_ad.rows(200, seed=4)
    found = reference_scores(by_ad.ranker, mixed, by_ad.layout, numeric, ids)
    own = [mixed[task] for task in by_ad.layout.tasks]
    expected = special.expit(calibrated_logits(own, by_ad.layout.parents, found.logits, ids))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
