"""Two numbers that have each other's statistics are exchanged; others, drifted ones too, are not."""

from collections.abc import Callable

import numpy as np
import pytest

from ctr_pipeline.gradients.triage.column_rules import column_clues
from ctr_pipeline.training.drilling.made_up_rows import LAYOUT, make_rows

Change = Callable[[np.ndarray], np.ndarray]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda n: n, False),
        (lambda n: n[:, ::-1], True),
        (lambda n: n * np.array([1.5, 1.2]) + np.array([0.5, 0.5]), False),
        (lambda n: n * 100, False),
        (lambda n: np.stack([n[:, 1], n[:, 1]], axis=1), False),
        (lambda n: n[:200, ::-1], False),
    ],
)
def test_exchanged_columns_are_told(change: Change, told: bool) -> None:
    found = list(column_clues(change(make_rows(4000, 1).numeric), LAYOUT))
    assert [(c.cause, c.against) for c in found] == [("feature_permuted", False), ("unnormalised_feature", True)] * told
