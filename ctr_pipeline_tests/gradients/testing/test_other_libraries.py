"""The plug-in pointed at models that are not ours: each fault that a continuous build looks for is caught.

The libraries are no dependencies of this project. In an environment of their own:
``pip install -c constraints.txt fuxictr==2.3.10 torch-rechub==0.9.0``.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_pipeline.gradients.testing import (
    TrainingSetup,
    assert_passed,
    check_clip_direction,
    check_cross_sample,
    check_finite_differences,
    check_gradients_reset,
    check_logit_gradient,
    check_loss_range,
    check_optimizer_coverage,
    check_overfits_one_batch,
    check_untouched_rows,
    check_weights_move,
)

pytestmark = pytest.mark.nightly
FIELDS, ROWS, WIDTH = 4, 50, 6
Batch = tuple[Tensor, Tensor]


class FuxiModel(nn.Module):
    """DCNv2 of FuxiCTR's layers; the models themselves are not in its wheel."""

    def __init__(self) -> None:
        super().__init__()
        layers = pytest.importorskip("fuxictr.pytorch.layers", reason="fuxictr is not installed", exc_type=ImportError)
        self.table = nn.Embedding(FIELDS * ROWS, WIDTH)
        self.cross = layers.CrossNetV2(FIELDS * WIDTH, 2)
        self.tower = layers.MLP_Block(input_dim=FIELDS * WIDTH, hidden_units=[16, 8], hidden_activations="ReLU")
        self.head = nn.Linear(FIELDS * WIDTH + 8, 1)

    def forward(self, ids: Tensor) -> Tensor:
        embedded = self.table(ids + ROWS * torch.arange(FIELDS)).flatten(1)
        logits: Tensor = self.head(torch.cat([self.cross(embedded), self.tower(embedded)], dim=1)).squeeze(1)
        return logits


class RechubModel(nn.Module):
    """DCN of torch-rechub, whose logits are read before its sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        ranking = pytest.importorskip(
            "torch_rechub.models.ranking", reason="torch-rechub is not installed", exc_type=ImportError
        )
        features = pytest.importorskip("torch_rechub.basic.features", exc_type=ImportError)
        fields = [features.SparseFeature(f"f{n}", vocab_size=ROWS, embed_dim=WIDTH) for n in range(FIELDS)]
        self.inner = ranking.DCN(fields, n_cross_layers=2, mlp_params={"dims": [16, 8]})
        self.tower, self.head = self.inner.mlp, self.inner.linear

    def forward(self, ids: Tensor) -> Tensor:
        found: list[Tensor] = []
        handle = self.head.register_forward_hook(lambda *call: found.append(call[2]))
        self.inner({f"f{n}": ids[:, n] for n in range(FIELDS)})
        handle.remove()
        return found[0].squeeze(1)


def setup_of(model: nn.Module, **changed: Any) -> TrainingSetup:
    ids = torch.randint(0, 30, (32, FIELDS), generator=torch.Generator().manual_seed(2))
    parts: dict[str, Any] = {
        "model": model,
        "batch": (ids, (ids[:, 0] % 2).float()),
        "forward": lambda own, batch: own(batch[0]),
        "loss": lambda z, batch: functional.binary_cross_entropy_with_logits(z, batch[1]),
        "labels": lambda batch: batch[1],
        "optimizers": [torch.optim.AdamW(model.parameters(), lr=0.01)],
        "clip": lambda parameters: nn.utils.clip_grad_norm_(parameters, 1.0),
    }
    return TrainingSetup(**(parts | changed))


@pytest.fixture(params=[FuxiModel, RechubModel])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    made: nn.Module = request.param()
    return made


def test_a_healthy_training_passes(model: nn.Module) -> None:
    setup = setup_of(model)
    assert_passed(
        check_logit_gradient(setup),
        check_loss_range(setup),
        # torch-rechub's layers have batch normalisation, which mixes samples in training by design.
        check_cross_sample(setup, training=False),
        check_clip_direction(setup),
        check_optimizer_coverage(setup),
        check_weights_move(setup),
        check_gradients_reset(setup),
        check_untouched_rows(setup),
        check_overfits_one_batch(setup),
        check_finite_differences(setup),
    )


LOSSES: dict[str, Callable[[Tensor, Batch], Tensor]] = {
    "sum": lambda z, b: functional.binary_cross_entropy_with_logits(z, b[1], reduction="sum"),
    "sign": lambda z, b: -functional.binary_cross_entropy_with_logits(z, b[1]),
    "two sigmoids": lambda z, b: functional.binary_cross_entropy_with_logits(torch.sigmoid(z), b[1]),
}


@pytest.mark.parametrize("fault", LOSSES)
def test_faults_of_the_loss_are_caught(model: nn.Module, fault: str) -> None:
    assert check_logit_gradient(setup_of(model, loss=LOSSES[fault])).failed


def test_the_loss_of_probabilities_is_caught(model: nn.Module) -> None:
    loss = lambda z, batch: functional.binary_cross_entropy(torch.sigmoid(z), batch[1])  # noqa: E731
    assert check_loss_range(setup_of(model, loss=loss)).failed


def test_frozen_and_detached_towers_are_caught(model: nn.Module) -> None:
    tower: Any = model.tower
    handle = tower.register_forward_hook(lambda *call: call[2].detach())
    assert "not reached by backward" in check_weights_move(setup_of(model)).message
    handle.remove()
    tower.requires_grad_(False)
    assert check_optimizer_coverage(setup_of(model)).failed


def test_a_wrong_detach_is_caught_by_finite_differences(model: nn.Module) -> None:
    tower: Any = model.tower
    tower.register_forward_hook(lambda *call: 0.5 * (call[2] + call[2].detach()))
    assert check_finite_differences(setup_of(model)).failed


def test_mixed_samples_are_caught(model: nn.Module) -> None:
    tower: Any = model.tower
    tower.register_forward_hook(lambda *call: call[2] - call[2].mean(dim=0))
    assert check_cross_sample(setup_of(model), training=False).failed


def test_faults_of_optimizers_are_caught(model: nn.Module) -> None:
    few = torch.optim.Adam(list(model.parameters())[1:], lr=0.01)
    assert check_optimizer_coverage(setup_of(model, optimizers=[few])).failed
    penalised = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    assert check_untouched_rows(setup_of(model, optimizers=[penalised])).failed


def test_faults_of_the_step_are_caught(model: nn.Module) -> None:
    each = setup_of(model, clip=lambda ps: [nn.utils.clip_grad_norm_([p], 1e-3) for p in ps])
    assert check_clip_direction(each).failed
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch: Batch) -> None:
        LOSSES["sum"](model(batch[0]), batch).backward()
        optimizer.step()

    assert check_gradients_reset(setup_of(model, optimizers=[optimizer], step=step)).failed
