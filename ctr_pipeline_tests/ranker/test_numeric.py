import math

import pytest
import torch

from ctr_pipeline.features.layout import Layout, NumericColumn
from ctr_pipeline.ranker import RankerError
from ctr_pipeline.ranker.numeric import NumericEncoder


def test_values_follow_the_formula(layout: Layout) -> None:
    encoder = NumericEncoder(layout.numeric)
    raw = torch.tensor([[-7.0, 1.25], [math.nan, math.nan]])
    encoded = encoder(raw)
    expected = [
        [(-math.log(8) - 1.0) / 0.5, (1.25 - 0.25) / 2.0, 0.0],
        [(math.log(4) - 1.0) / 0.5, (0.5 - 0.25) / 2.0, 1.0],
    ]
    torch.testing.assert_close(encoded, torch.tensor(expected))


def test_tails_are_clamped_and_never_non_finite(layout: Layout) -> None:
    raw = torch.tensor([[math.inf, -1e38], [-math.inf, 1e38]])
    encoded = NumericEncoder(layout.numeric)(raw)
    assert encoded[:, :2].tolist() == [[10.0, -10.0], [-10.0, 10.0]]


def test_only_values_beyond_ten_standard_deviations_are_clamped() -> None:
    column = NumericColumn("plain", "dense", "none", 0.0, False, 5.0, 2.0)
    raw = torch.tensor([[5.0 + 2 * 9.5], [5.0 + 2 * 10.5], [5.0 - 2 * 9.5], [5.0 - 2 * 10.5]])
    assert NumericEncoder([column])(raw).flatten().tolist() == [9.5, 10.0, -9.5, -10.0]


def test_statistics_that_single_precision_cannot_hold_are_refused() -> None:
    column = NumericColumn("tiny", "dense", "none", 0.0, False, 0.0, 1e-60)
    with pytest.raises(RankerError, match="tiny"):
        NumericEncoder([column])


def test_no_numbers_give_no_columns() -> None:
    assert NumericEncoder([])(torch.zeros((4, 0))).shape == (4, 0)
