"""A request of a shared part and candidates has the inputs of the rows that it stands for."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.features.layout import EventList, FromTime, IdColumn, Layout, NumericColumn, Pooled
from ctr_pipeline.features.request_columns import RequestColumns
from ctr_pipeline.serving.candidate_encoding import CandidateEncoder
from ctr_pipeline.serving.category_rows import Vocabulary
from ctr_pipeline.serving.request_encoding import RequestEncoder
from ctr_pipeline.serving.request_values import BundleError

LAYOUT = Layout(
    numeric=(
        NumericColumn("price", "dense", "none", 0.0, True, 0.0, 1.0),
        NumericColumn("seen", "dense", "none", 0.0, True, 0.0, 1.0),
        NumericColumn("vector[0]", "dense", "none", 0.0, True, 0.0, 1.0),
        NumericColumn("vector[1]", "dense", "none", 0.0, False, 0.0, 1.0),
    ),
    ids=(
        IdColumn("ad", "categorical", 6, 4),
        IdColumn("device", "categorical", 6, 4, table="ad"),
        IdColumn("hour", "contextual", 5, 2, from_time=FromTime("hour", "Europe/Berlin")),
        IdColumn("tags", "categorical", 6, 4, table="ad", pooled=Pooled(3, "mean", "first")),
    ),
    tasks=("click",),
    parents=(-1,),
    null_values={"device": ("NA", "0"), "seen": ("-1",), "tags": ("false",)},
)
VOCABULARY = Vocabulary({"ad": {"a": 2, "7": 3, "true": 4, "0.5": 5}, "hour": {"10": 2, "11": 3, "12": 4}})
ENCODER = RequestEncoder.of(LAYOUT, VOCABULARY)

NUMBERS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_infinity=False),
    st.sampled_from([-1, 3.5e38, math.nan]),
)  # fmt: skip
TEXTS = st.sampled_from([None, "a", " a ", "7", 7, 7.0, True, "true", "NA", "0", 0, 0.5, "", "new", math.nan])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "price": NUMBERS,
    "seen": NUMBERS,
    "vector": st.none() | st.lists(st.floats(-9, 9), min_size=2, max_size=2),
    "ad": TEXTS,
    "device": TEXTS,
    "hour": st.sampled_from(["10", 11, None]),
    "tags": st.none() | st.lists(TEXTS, max_size=4),
    "ts": st.sampled_from([None, 1_772_360_000_000_000, 1_772_363_600_000_000]),
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, list[Any]], int, tuple[str, ...]]:
    """Shared values, columns of candidates, their number, and the features in which they may differ."""
    own = draw(st.sets(st.sampled_from([name for name in VALUES if name not in ("ts", "hour")]), min_size=1))
    count = draw(st.integers(0, 5))
    absent = draw(st.sets(st.sampled_from(sorted(VALUES))))
    given_once = draw(st.sets(st.sampled_from(sorted(own))))
    shared = {
        name: draw(values)
        for name, values in VALUES.items()
        if name not in absent and (name not in own or name in given_once)
    }
    candidates = {
        name: draw(st.lists(VALUES[name], min_size=count, max_size=count))
        for name in sorted(own)
        if name not in absent and name not in given_once
    }
    return shared, candidates, count if candidates else 1, tuple(sorted(own))


@given(requests())
def test_inputs_are_those_of_the_rows(
    request: tuple[dict[str, Any], dict[str, list[Any]], int, tuple[str, ...]],
) -> None:
    shared, candidates, count, own = request
    layout = replace(LAYOUT, candidate_features=own)
    encoder = CandidateEncoder(RequestEncoder.of(layout, VOCABULARY), RequestColumns.of(layout))
    rows = [shared | {name: values[at] for name, values in candidates.items()} for at in range(count)]
    expected = ENCODER.rows(rows)
    inputs = encoder.request(encoder.shared(shared), candidates, count)
    assert inputs.shared_ids.shape[0] == 1
    assert inputs.ids.shape[:2] == (1, count)
    for found, wanted in zip(inputs.rows(), expected, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@given(requests())
def test_a_model_of_whole_rows_takes_any_feature_from_each_candidate(
    request: tuple[dict[str, Any], dict[str, list[Any]], int, tuple[str, ...]],
) -> None:
    shared, candidates, count, _ = request
    encoder = CandidateEncoder(ENCODER, RequestColumns.whole(LAYOUT))
    columns = candidates | {name: [value] * count for name, value in shared.items()}
    inputs = encoder.request(encoder.shared({}), columns, count)
    rows = [{name: values[at] for name, values in columns.items()} for at in range(count)]
    for found, wanted in zip(inputs.rows(), ENCODER.rows(rows), strict=True):
        np.testing.assert_array_equal(found, wanted)


DECLARED = replace(LAYOUT, candidate_features=("price", "seen", "ad", "tags"))
SHARING = CandidateEncoder(RequestEncoder.of(DECLARED, VOCABULARY), RequestColumns.of(DECLARED))


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({"device": ["a", "a"]}, "feature 'device' is the same for all candidates of this model"),
        ({"hour": ["10", "11"], "price": [1, 2]}, "feature 'hour' is the same for all candidates"),
        ({"ts": [0, 3_600_000_000]}, "'ts' makes feature 'hour', which is the same for all candidates"),
        ({"price": [1.0, "x"]}, "row 1: feature 'price': found str"),
        ({"price": [1.0, [2.0]]}, "row 1: feature 'price': found list"),
        ({"price": [None, math.inf]}, "row 1: feature 'price': found inf"),
        ({"price": [1, 10**400]}, "row 1: feature 'price': found a whole number of 1329 bits"),
        ({"seen": [1, {}]}, "row 1: feature 'seen': found dict"),
        ({"ad": ["a", ["a"]]}, "row 1: feature 'ad': found list"),
        ({"tags": [["a"], "a"]}, "row 1: feature 'tags': found str"),
        ({"prise": [1, 2]}, "feature 'prise': the model has no such feature; did you mean 'price'"),
    ],
)  # fmt: skip
def test_wrong_candidates_are_refused_by_name(candidates: dict[str, list[Any]], message: str) -> None:
    row = SHARING.shared({"vector": [1, 2]})
    with pytest.raises(BundleError) as error:
        SHARING.request(row, candidates, 2)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({"price": "1"}, "feature 'price': found str; expected a number"),
        ({"price": math.inf}, "feature 'price': found inf"),
        ({"price": 10**400}, "feature 'price': found a whole number of 1329 bits"),
        ({"ad": {}}, "feature 'ad': found dict"),
        ({"ad": 10**5000}, "feature 'ad': found a whole number"),
        ({"vector": [1]}, "feature 'vector': found 1 numbers; expected 2"),
        ({"ts": "noon"}, "'ts': found str"),
        ({"vektor": [1]}, "feature 'vektor': the model has no such feature; did you mean 'vector'"),
    ],
)
def test_wrong_shared_values_are_refused_by_name(shared: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError) as error:
        SHARING.shared(shared)
    assert message in str(error.value)


def test_a_shared_time_makes_the_features_of_all_candidates() -> None:
    row = SHARING.shared({"ts": 1_772_360_000_000_000})
    inputs = SHARING.request(row, {"price": [1, 2]}, 2)
    assert inputs.rows()[1][:, 2].tolist() == [3, 3]
    # The hour that is given stands before the one that the candidates' times would make.
    given_hour = SHARING.request(SHARING.shared({"hour": "12"}), {"ts": [0, 1], "price": [1, 2]}, 2)
    assert given_hour.rows()[1][:, 2].tolist() == [4, 4]


def test_candidates_of_a_model_that_declares_none_may_have_events_of_their_own() -> None:
    ages = tuple(NumericColumn(f"recent_age[{at}]", "history", "none", 0.0, False, 0.0, 1.0) for at in range(2))
    recent = IdColumn("recent", "history", 6, 4, pooled=Pooled(2, "mean", "first"), table="ad")
    layout = replace(
        LAYOUT,
        numeric=(*LAYOUT.numeric, *ages),
        ids=(*LAYOUT.ids, recent),
        event_lists=(EventList("recent", "ad", None, "recent_age", 2),),
    )
    single = RequestEncoder.of(layout, VOCABULARY)
    encoder = CandidateEncoder(single, RequestColumns.of(layout))
    shared = {"price": 3, "device": "a"}
    columns = {"ad": ["a", "7"], "recent": [["a", "a"], []], "recent_age": [[1.0, 5.0], []]}
    rows = [shared | {name: values[at] for name, values in columns.items()} for at in range(2)]
    inputs = encoder.request(encoder.shared(shared), columns, 2)
    assert inputs.shared_ids.shape == (2, 2)
    for found, wanted in zip(inputs.rows(), single.rows(rows), strict=True):
        np.testing.assert_array_equal(found, wanted)
    once = encoder.request(encoder.shared(shared | rows[0]), {"ad": ["a", "7"]}, 2)
    assert once.shared_ids.shape == (1, 2)
    with pytest.raises(BundleError, match="found 1 of recent, 0 of recent_age"):
        encoder.shared({"recent": ["a"]})
