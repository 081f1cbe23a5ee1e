"""A bundle whose candidates share features: declared in the spec, an input of the graph of its own, the same scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from ctr_pipeline.features.layout import Layout, LayoutError
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.export import check_parity, reference_scores
from ctr_pipeline.serving.request_inputs import RequestInputs
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.serving.shop import SPEC, Shop, make_layout


def test_what_candidates_share_is_an_input_of_its_own(sharing: Bundle, bundle: Bundle) -> None:
    shapes = {given.name: given.shape for given in sharing.session.get_inputs()}
    assert shapes == {
        "numeric": ["keys", "candidates", 1], "ids": ["keys", "candidates", 1],
        "shared_numeric": ["keys", 1], "shared_ids": ["keys", 2],
    }  # fmt: skip
    assert sharing.layout.candidate_features == ("price", "ad")
    assert sharing.inputs == bundle.inputs
    assert not bundle.columns.share
    assert bundle.layout == make_layout()


def test_it_scores_as_the_ranker_does_alone_together_and_by_request(sharing: Bundle, shop: Shop) -> None:
    numeric, ids = shop.rows(700)
    parity = check_parity(sharing, shop.ranker, shop.calibrators, numeric, ids)
    parity.require()
    assert parity.batch <= 1e-6


def test_rows_of_one_request_are_scored_as_one(sharing: Bundle, shop: Shop) -> None:
    numeric, ids = shop.rows(40)
    numeric[:, 1], ids[:, 1:] = np.nan, ids[0, 1:]
    inputs = RequestInputs.of_rows(numeric, ids, sharing.columns)
    assert (inputs.shared_ids.shape, inputs.ids.shape) == ((1, 2), (1, 40, 1))
    for found, expected in zip(inputs.rows(), (numeric, ids), strict=True):
        np.testing.assert_array_equal(found, expected)
    expected = reference_scores(shop.ranker, shop.calibrators, shop.layout, numeric, ids)
    np.testing.assert_allclose(sharing.score_inputs(inputs).probabilities, expected.probabilities, rtol=0, atol=1e-5)
    ids[7, 2] = 1 - ids[0, 2] % 2
    mixed = RequestInputs.of_rows(numeric, ids, sharing.columns)
    assert (mixed.shared_ids.shape, mixed.ids.shape) == ((40, 2), (40, 1, 1))
    for found, expected_rows in zip(mixed.rows(), (numeric, ids), strict=True):
        np.testing.assert_array_equal(found, expected_rows)


def test_the_same_model_gives_the_same_bytes(sharing: Bundle, shop: Shop, tmp_path: Path) -> None:
    spec = parse_spec((sharing.directory / "spec.yaml").read_text(), "test")
    assert replace(shop, spec=spec).export(tmp_path / "again").sha256 == sharing.sha256


def test_a_layout_names_the_features_in_which_candidates_differ() -> None:
    layout = replace(make_layout(), candidate_features=("ad",))
    assert Layout.from_json(layout.to_json()) == layout
    assert "candidate_features" not in make_layout().to_json()
    with pytest.raises(LayoutError, match="candidates differ in size, which is none of the features"):
        replace(layout, candidate_features=("size",))


@pytest.mark.parametrize("own", [["price"], ["ad", "device", "hour"]])
def test_candidates_may_have_numbers_alone_or_ids_alone(shop: Shop, own: list[str], tmp_path: Path) -> None:
    content = yaml.safe_load(SPEC) | {"serving": {"candidate_features": own}}
    bundle = replace(shop, spec=parse_spec(yaml.safe_dump(content), "test")).export(tmp_path / "bundle")
    numeric, ids = shop.rows(60)
    check_parity(bundle, shop.ranker, shop.calibrators, numeric, ids).require()
    shapes = {given.name: given.shape[-1] for given in bundle.session.get_inputs()}
    wanted = {"numeric": 1, "ids": 0, "shared_numeric": 1, "shared_ids": 3}
    assert shapes == (wanted if own == ["price"] else {"numeric": 0, "ids": 3, "shared_numeric": 2, "shared_ids": 0})
