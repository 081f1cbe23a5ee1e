"""A layout with two embedding widths and a funnel of three tasks."""

import pytest
import torch
from torch import Tensor

from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn


@pytest.fixture
def layout() -> Layout:
    return Layout(
        numeric=(
            NumericColumn("price", "dense", "signed_log1p", 3.0, True, 1.0, 0.5),
            NumericColumn("rating", "dense", "none", 0.5, False, 0.25, 2.0),
        ),
        ids=(
            IdColumn("ad", "categorical", 11, 4),
            IdColumn("device", "categorical", 5, 2),
            IdColumn("query", "contextual", 7, 4),
        ),
        tasks=("click", "cart", "checkout"),
        parents=(-1, 0, 1),
    )


@pytest.fixture
def batch(layout: Layout) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    numeric = torch.randn((9, 2), generator=generator) * 3
    numeric[2, 0] = float("nan")
    ids = torch.stack([torch.randint(0, c.rows, (9,), generator=generator) for c in layout.ids], dim=1)
    return numeric, ids.int()
