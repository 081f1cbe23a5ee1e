"""What is listed of the past, from columns of places to lists, vocabularies and arrays; and whose ids it holds."""

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.features import encode_ids, fit_layout, gather_lists, numeric_matrix
from ctr_pipeline.features.top_items import UNIT, weight_of_age
from ctr_pipeline.privacy.erasing import listed_users
from ctr_pipeline.spec import parse_spec
from ctr_pipeline.spec.fields import DAY_US, MICROSECONDS

SPEC = parse_spec(
    """
version: 1
name: small
source: {impressions: {paths: [x.parquet]}}
impression: {id: i, time: t, user: u}
features:
  categorical: [{name: ad, min_count: 1}, {name: viewer, column: u, min_count: 1}]
  history:
    - {name: recent, kind: sequence, key: user, events: [impression, click], item: ad, length: 3}
    - {name: fans, kind: top, key: ad, item: viewer, length: 2}
    - {name: seen, kind: count, key: user, days: 3}
tasks: [{name: click, window: 0s, label: {column: y}}]
model: {embedding_dim: 5, sequences: [target_attention]}
""",
    "small.yaml",
)


def rows() -> pl.DataFrame:
    """A full past, none, and one whose second row was erased."""
    places = {
        "recent_1": ["a", None, "b"], "recent_2": ["b", None, None], "recent_3": ["zz", None, "a"],
        "recent_1_event": ["click", None, "impression"], "recent_2_event": ["impression", None, "click"],
        "recent_3_event": ["impression", None, "impression"],
        "recent_age[0]": [1.0, None, 4.0], "recent_age[1]": [2.0, None, None], "recent_age[2]": [3.0, None, 9.0],
        "fans_1": ["p", None, "q"], "fans_2": [None, None, "p"],
    }  # fmt: skip
    day = pl.Series([1, 2, 3]).cast(pl.Date)
    logged = {"day": day, "ts": [1, 2, 3], "ad": ["a", "b", "b"], "viewer": ["p", "q", "p"], "seen": [1.0, 2.0, 3.0]}
    return pl.DataFrame({**logged, **places})


def test_places_become_lists_that_stay_side_by_side() -> None:
    found = gather_lists(SPEC, rows().lazy()).collect()
    assert found["recent"].to_list() == [["a", "b", "zz"], [], ["b", None, "a"]]
    assert found["recent_event"].to_list() == [
        ["click", "impression", "impression"], [], ["impression", "click", "impression"],
    ]  # fmt: skip
    assert found["fans"].to_list() == [["p"], [], ["q", "p"]]
    assert "recent_1" not in found.columns
    one = gather_lists(SPEC, rows().lazy(), ["fans"]).collect()
    assert "recent_1" in one.columns
    assert "fans_1" not in one.columns


def test_lists_share_the_vocabulary_of_their_item() -> None:
    frame = gather_lists(SPEC, rows().lazy()).collect()
    layout, vocabulary = fit_layout(SPEC, frame.lazy())
    assert [(c.name, c.table, c.rows) for c in layout.ids] == [
        ("ad", None, 4), ("viewer", None, 4), ("fans", "viewer", 4), ("recent", "ad", 4), ("recent_event", None, 4),
    ]  # fmt: skip
    assert vocabulary["feature"].unique().sort().to_list() == ["ad", "recent_event", "viewer"]
    ids = encode_ids(layout, vocabulary, frame)
    # Ads: b is shown twice, so it has row 2 and a row 3; zz is none of those shown.
    assert ids[:, 4:7].tolist() == [[3, 2, 1], [-1, -1, -1], [2, 0, 3]]
    assert ids[:, 2:4].tolist() == [[2, -1], [-1, -1], [3, 2]]
    assert (ids[:, 7:] >= 0).tolist() == (ids[:, 4:7] >= 0).tolist()
    assert layout.lone(0).tolist() == [0, 0] + [-1] * 8
    assert layout.lone(1).tolist() == [1, 1, 1, -1, 1, -1, -1, 1, -1, -1]
    ages = numeric_matrix(layout, frame)[:, 1:]
    np.testing.assert_array_equal(ages, [[1, 2, 3], [np.nan] * 3, [4, np.nan, 9]])
    assert layout.from_json(layout.to_json()) == layout


def test_users_in_lists_are_known_to_be_users() -> None:
    assert listed_users(SPEC) == ["fans_1", "fans_2"]


@pytest.mark.parametrize("days", [1, 7, 365])
def test_a_weight_halves_by_the_half_life(days: int) -> None:
    week = 7 * DAY_US
    assert weight_of_age(days, week) == max(1, round(UNIT * 0.5 ** (days / 7)))
    assert weight_of_age(7, week) == UNIT // 2
    assert weight_of_age(365, 6 * MICROSECONDS["h"]) == 1
