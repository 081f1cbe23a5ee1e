"""Slices that a spec declares: where an interval begins, what a category is called, and how well an id is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.evaluation.declared_slices import (
    category_slices,
    cold_start_slices,
    evidence_slices,
    interval_names,
    interval_slices,
)
from ctr_pipeline.features.layout import IdColumn, Layout, ParentMean, Pooled


def test_an_interval_holds_its_lower_edge() -> None:
    values = np.array([-1.0, 0.0, 1.99, 2.0, 6.5, 7.0, 1e9, np.nan], dtype=np.float32)
    assert interval_slices(values, [2.0, 7.0]).tolist() == [
        "below 2", "below 2", "below 2", "[2, 7)", "[2, 7)", "from 7 on", "from 7 on", "missing",
    ]  # fmt: skip
    assert interval_names([2.0, 7.0]) == ["below 2", "[2, 7)", "from 7 on", "missing"]
    assert interval_slices(values[:3], [0.5]).tolist() == ["below 0.5", "below 0.5", "from 0.5 on"]


@given(st.lists(st.floats(-50, 50, width=32), min_size=1), st.lists(st.integers(-40, 40), min_size=1, unique=True))
def test_each_number_is_in_the_interval_that_is_named(values: list[float], edges: list[int]) -> None:
    edges = sorted(edges)
    found = interval_slices(np.array(values, dtype=np.float32), [float(edge) for edge in edges])
    for value, name in zip(values, found, strict=True):
        below = sum(edge <= value for edge in edges)
        expected = (
            f"below {edges[0]}" if below == 0
            else f"from {edges[-1]} on" if below == len(edges)
            else f"[{edges[below - 1]}, {edges[below]})"
        )  # fmt: skip
        assert name == expected


def test_categories_have_the_names_of_the_log() -> None:
    found = category_slices(np.array([0, 3, 1, 2, 3]), {2: "mobile", 3: "desktop"})
    assert found.tolist() == ["missing", "desktop", "unknown", "mobile", "desktop"]
    with pytest.raises(KeyError):
        category_slices(np.array([4]), {2: "mobile"})


def test_an_id_is_as_known_as_it_has_training_rows() -> None:
    training = np.array([2] * 30 + [3] * 31 + [1] * 400 + [0] * 5)
    found = evidence_slices(np.array([0, 1, 2, 3, 4]), training, 30.0)
    assert found.tolist() == ["missing", "none", "up to 30", "above 30", "none"]


def test_only_ids_with_a_cold_start_have_such_slices() -> None:
    layout = Layout(
        (),
        (
            IdColumn("tags", "categorical", 4, 3, Pooled(2, "mean", "last")),
            IdColumn("ad", "categorical", 5, 3, cold_start=ParentMean("shop", 1.0)),
            IdColumn("shop", "categorical", 3, 2),
        ),
        ("click",),
        (-1,),
    )
    training = np.array([[2, -1, 2, 2], [2, -1, 2, 2], [2, -1, 3, 2]], dtype=np.int32)
    found = cold_start_slices(layout, np.array([[2, -1, 2, 2], [2, -1, 3, 2], [2, -1, 4, 2]], dtype=np.int32), training)
    assert {name: values.tolist() for name, values in found.items()} == {
        "training rows of ad": ["above 1", "up to 1", "none"]
    }
