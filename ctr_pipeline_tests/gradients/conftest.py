"""A ranker, a batch, and its loss by the book."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.spec.model import Model


@dataclass
class Case:
    layout: Layout
    model: Ranker
    batch: BatchView

    def backward(self) -> Tensor:
        """Mean cross-entropy of every task; gradients are left in the model."""
        logits = self.model(self.batch.numeric, self.batch.ids)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, self.batch.labels.float(), reduction="none"
        ).mean(dim=0)
        losses.sum().backward()
        return losses.detach()


@pytest.fixture
def case() -> Case:
    layout = Layout(
        numeric=(
            NumericColumn("price", "dense", "signed_log1p", 0.0, True, 0.0, 1.0),
            NumericColumn("rating", "dense", "none", 0.0, False, 0.0, 1.0),
        ),
        ids=(IdColumn("ad", "categorical", 10, 4), IdColumn("query", "categorical", 8, 4)),
        tasks=("click", "cart"),
        parents=(-1, 0),
    )
    generator = torch.Generator().manual_seed(11)
    labels = torch.randint(0, 2, (12, 2), generator=generator).to(torch.int8)
    batch = BatchView(
        numeric=torch.randn((12, 2), generator=generator),
        ids=torch.stack([torch.randint(0, c.rows, (12,), generator=generator) for c in layout.ids], dim=1).int(),
        labels=labels,
        weights=torch.ones((12, 2)),
        rows=torch.arange(100, 112),
        position=torch.zeros(12, dtype=torch.int16),
    )
    # Without normalisation the weights that a test sets decide what a layer gives.
    model = Model(embedding_dim=4, hidden=[8, 6], normalisation="none")
    return Case(layout, build_ranker(layout, model, 1), batch)
