"""Values of another side reach a model as they would in service: numbers, categories, lists, events, missing ones."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.attribution.trained_side import ReplayError, ReplayRows, substituted
from ctr_pipeline_tests.attribution.made_up_sides import LISTED, rows, side

SEQUENCE = {"sequences": [{"kind": "target_attention"}]}


def columns_of(found: ReplayRows, feature: str) -> list[str]:
    return [name for name in found.values.columns if name.partition("[")[0] == feature]


@pytest.mark.parametrize("feature", ["price", "pixels", "ad", "page", "tags", "recent"])
def test_the_values_of_a_feature_are_those_of_the_other_rows_and_no_others(feature: str) -> None:
    one = side(1, SEQUENCE, LISTED)
    own, other = rows(60, 1, layout=LISTED), rows(60, 2, layout=LISTED)
    # An oracle that replaces cells of the model's own arrays.
    encoded, theirs = one.encode(own), one.encode(other)
    numeric, ids = encoded.numeric.copy(), encoded.ids.copy()
    for place, number in enumerate(one.layout.numeric):
        if number.feature in (feature, "recent_age" if feature == "recent" else feature):
            numeric[:, place] = theirs.numeric[:, place]
    for column, places in zip(one.layout.ids, one.layout.id_places, strict=True):
        if column.name == feature:
            ids[:, places] = theirs.ids[:, places]
    expected = one.calibrated(replace(encoded, numeric=numeric, ids=ids))
    found = substituted(one, own, [feature], other)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - one.logits(own)).max() > 1e-3


def test_a_unit_that_changed_is_cured_by_the_old_values() -> None:
    one, old = side(1), rows(200, 1)
    new = replace(old, values=old.values.with_columns(pl.col("price") * 100))
    assert np.abs(one.logits(new) - one.logits(old)).max() > 0.1
    np.testing.assert_array_equal(substituted(one, new, ["price"], old), one.logits(old))
    np.testing.assert_array_equal(substituted(one, new, ["age"], old), one.logits(new))


def test_categories_go_by_their_text_and_not_by_their_row() -> None:
    # The same weights under another order of the vocabulary read other embeddings of the same text.
    one, other = side(1), side(1, shuffled=3)
    own = rows(200, 1)
    assert np.abs(one.logits(own) - other.logits(own)).max() > 0.1
    np.testing.assert_array_equal(substituted(other, own, ["ad", "tags", "page"], own), other.logits(own))


def test_a_feature_that_the_rows_lack_is_missing() -> None:
    one, own = side(1), rows(80, 1)
    lacking = replace(own, values=own.values.drop("price", "ad", "tags", *columns_of(own, "pixels")))
    assert one.absent(lacking) == ("price", "pixels", "ad", "tags")
    names = ["price", "ad", "tags", "pixels[0]", "pixels[1]"]
    empty = replace(own, values=own.values.with_columns(pl.lit(None, own.values.schema[n]).alias(n) for n in names))
    np.testing.assert_array_equal(one.logits(lacking), one.logits(empty))
    np.testing.assert_array_equal(substituted(one, own, ["price", "ad", "tags", "pixels"], lacking), one.logits(empty))
    nothing = replace(own, values=own.values.select([]))
    assert one.logits(nothing).shape == (80, 2)


def test_values_are_those_of_as_many_rows() -> None:
    one = side(1)
    with pytest.raises(ReplayError, match="values of 30 rows for 20"):
        substituted(one, rows(20, 1), ["price"], rows(30, 1))


def test_chosen_rows_score_as_they_did() -> None:
    one, own = side(1), rows(50, 1)
    chosen = np.array([7, 3, 40])
    np.testing.assert_allclose(one.logits(own.take(chosen), ["order"])[:, 0], one.logits(own)[chosen, 1], atol=1e-5)
