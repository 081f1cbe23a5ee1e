"""A plain ``nn.Sequential`` with an embedding, and how it is trained."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

Batch = tuple[Tensor, Tensor]


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the known labels."""
    labels = batch[1]
    known = labels >= 0
    each = functional.binary_cross_entropy_with_logits(logits, labels.clamp_min(0), reduction="none")
    return torch.where(known, each, 0.0).sum() / known.sum().clamp_min(1)


def forward(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(batch[0]).squeeze(1)
    return logits


def without_labels(batch: Batch, task: int) -> Batch:
    return batch[0], torch.full_like(batch[1], -1.0)


def clip(parameters: Any) -> object:
    return nn.utils.clip_grad_norm_(parameters, 1.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Embedding(50, 4), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 1)
    )


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 30, (24, 3), generator=generator)
    return ids, (ids[:, 0] % 2).float()


@pytest.fixture
def make_setup(model: nn.Sequential, batch: Batch) -> Callable[..., TrainingSetup]:
    """A healthy setup; arguments replace its parts."""

    def make(**changed: Any) -> TrainingSetup:
        own: nn.Module = changed.get("model", model)
        parts: dict[str, Any] = {
            "model": own,
            "batch": batch,
            "forward": forward,
            "loss": cross_entropy,
            "optimizers": [torch.optim.AdamW(own.parameters(), lr=0.01)],
            "labels": lambda batch: batch[1],
            "without_labels": without_labels,
            "clip": clip,
        }
        return TrainingSetup(**(parts | changed))

    return make
