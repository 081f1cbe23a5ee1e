"""Finite differences, samples and clipping: healthy modules pass, each fault is found."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.clip_direction import check_clip_direction
from ctr_pipeline.gradients.contracts.finite_differences import check_finite_differences
from ctr_pipeline.gradients.contracts.kinks import observed_decisions, same_decisions
from ctr_pipeline.gradients.contracts.sample_independence import check_cross_sample
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

MakeSetup = Callable[..., TrainingSetup]


class Around(nn.Module):
    """A model with something done to its hidden units."""

    def __init__(self, model: nn.Sequential, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.below, self.above, self.change = model[:3], model[3:], change

    def forward(self, ids: Tensor) -> Tensor:
        above: Tensor = self.above(self.change(self.below(ids)))
        return above


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return values * 2

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient * 2.002


@pytest.mark.parametrize("seed", range(20))
def test_finite_differences_of_a_healthy_model(make_setup: MakeSetup, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Embedding(50, 4, padding_idx=0, sparse=seed % 2 == 0), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(),
        nn.Dropout(0.2), nn.Linear(16, 8), nn.LeakyReLU(), nn.Linear(8, 1),
    )  # fmt: skip
    outcome = check_finite_differences(make_setup(model=model, optimizers=[]), seed=seed)
    assert outcome.verdict == "passed", outcome.message
    assert outcome.measured is not None
    assert outcome.measured < 1e-6


def test_the_model_itself_is_left_alone(make_setup: MakeSetup, model: nn.Sequential) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_finite_differences(make_setup())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (WrongBackward.apply, "a backward of your own"),
        (lambda hidden: hidden.detach(), "autograd gives none although"),
        (lambda hidden: hidden + hidden.detach(), "look for detach()"),
    ],
)
def test_wrong_gradients_are_found(make_setup: MakeSetup, model: nn.Sequential, change: Any, message: str) -> None:
    outcome = check_finite_differences(make_setup(model=Around(model, change)))
    assert outcome.failed
    assert message in outcome.message
    assert outcome.where.startswith("below")


def test_a_cast_to_single_precision_cannot_be_measured(make_setup: MakeSetup) -> None:
    outcome = check_finite_differences(make_setup(loss=lambda z, _: z.float().mean()))
    assert outcome.verdict == "not_measured"


@pytest.mark.parametrize(
    "function",
    [torch.relu, torch.abs, nn.functional.hardtanh, lambda x: x.clamp(min=0), lambda x: x.amax(dim=0), torch.floor,
     lambda x: torch.where(x > 0, x, 2 * x), lambda x: torch.maximum(x, -x), lambda x: x.sort().values],
)  # fmt: skip
def test_kinks_are_noticed(function: Callable[[Tensor], Tensor]) -> None:
    start = torch.tensor([[0.2, -0.5, 1.5], [0.1, 0.6, -0.3]])
    with observed_decisions() as first:
        function(start)
    with observed_decisions() as near:
        function(start + 1e-3)
    with observed_decisions() as across:
        function(-start)
    assert same_decisions(first, near)
    assert not same_decisions(first, across)


def test_memory_that_is_not_yet_written_decides_nothing() -> None:
    """The ranker's dropout draws its numbers into new memory."""
    found = []
    for content in (1, 2):
        # What is freed here is what the next allocation of its size holds.
        torch.full((4096,), content)
        with observed_decisions() as decisions:
            torch.empty(4096, dtype=torch.int64)
        found.append(decisions)
    assert same_decisions(*found)


@pytest.mark.parametrize("layer", [nn.Identity(), nn.LayerNorm(16), nn.Dropout(0.3), nn.Softmax(dim=1)])
def test_samples_of_a_healthy_model_are_independent(
    make_setup: MakeSetup, model: nn.Sequential, layer: nn.Module
) -> None:
    assert check_cross_sample(make_setup(model=Around(model, layer))).verdict == "passed"


@pytest.mark.parametrize(
    "change",
    [
        lambda hidden: hidden.softmax(dim=0),
        lambda hidden: hidden - hidden.mean(dim=0),
        lambda hidden: hidden.reshape(16, -1).T,
        lambda hidden: hidden + 0.01 * hidden.roll(1, dims=0),
        nn.BatchNorm1d(16),
    ],
)
def test_mixed_samples_are_found(make_setup: MakeSetup, model: nn.Sequential, change: Any) -> None:
    outcome = check_cross_sample(make_setup(model=Around(model, change)))
    assert outcome.failed, outcome.message


@pytest.mark.parametrize("broken", [slice(3, 4), slice(None)])
def test_logits_that_are_not_finite_mix_nothing(make_setup: MakeSetup, model: nn.Sequential, broken: slice) -> None:
    def spoil(hidden: Tensor) -> Tensor:
        spoilt = hidden.clone()
        spoilt[broken] = torch.nan
        return spoilt

    setup = make_setup(model=Around(model, spoil))
    for double in (True, False):
        outcome = check_cross_sample(setup, double=double)
        assert outcome.verdict == "not_measured"
        first = broken.start or 0
        assert f"not finite before any input is exchanged, the first of them of sample {first}" in outcome.message


@pytest.mark.parametrize("numerator", [1.0, 0.0])
def test_samples_that_make_another_one_no_number_are_mixed(
    make_setup: MakeSetup, model: nn.Sequential, numerator: float
) -> None:
    def divide(hidden: Tensor) -> Tensor:
        # Finite in the order of the batch; the exchange gives sample 3 the input of sample 2.
        return hidden + numerator / (hidden[2] - hidden[3]).abs().sum()

    outcome = check_cross_sample(make_setup(model=Around(model, divide)))
    assert outcome.failed
    assert "100% of the logits change" in outcome.message


def test_batch_normalisation_mixes_in_training_only(make_setup: MakeSetup, model: nn.Sequential) -> None:
    norm = nn.BatchNorm1d(16)
    setup = make_setup(model=Around(model, norm))
    assert check_cross_sample(setup, training=True).failed
    assert check_cross_sample(setup, training=False).verdict == "passed"
    assert norm.training
    assert int(norm.num_batches_tracked or 0) == 0


def test_clipping_leaves_the_direction(make_setup: MakeSetup) -> None:
    outcome = check_clip_direction(make_setup(), max_norm=1.0)
    assert outcome.verdict == "passed", outcome.message


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (lambda ps: [nn.utils.clip_grad_norm_([p], 1.0) for p in ps], "tensor by tensor"),
        (lambda ps: nn.utils.clip_grad_value_(ps, 0.1), "value by value"),
        (lambda _: None, "at most 1 is expected"),
    ],
)
def test_clipping_that_turns_the_gradient_is_found(make_setup: MakeSetup, clip: Any, message: str) -> None:
    outcome = check_clip_direction(make_setup(clip=clip), max_norm=1.0)
    assert outcome.failed
    assert message in outcome.message


def test_samples_that_hardly_differ_are_told_apart(make_setup: MakeSetup, model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight.mul_(1e-5)
    assert check_cross_sample(make_setup(model=model[:3].append(nn.Linear(16, 1)))).verdict == "passed"
    mixed = Around(nn.Sequential(*model[:3], nn.Linear(16, 1)), lambda hidden: hidden - hidden.mean(dim=0))
    assert check_cross_sample(make_setup(model=mixed)).failed


def test_finite_differences_through_batch_normalisation(make_setup: MakeSetup, model: nn.Sequential) -> None:
    healthy = check_finite_differences(make_setup(model=Around(model, nn.BatchNorm1d(16))))
    assert healthy.verdict == "passed", healthy.message
    norm = nn.BatchNorm1d(16)
    norm.register_forward_hook(lambda *call: 0.5 * (call[2] + call[2].detach()))
    assert check_finite_differences(make_setup(model=Around(model, norm))).failed


def test_what_is_rounded_throughout_cannot_be_measured(make_setup: MakeSetup) -> None:
    outcome = check_finite_differences(make_setup(loss=lambda z, _: z.mean() + 1e-9 * torch.round(z * 1e9).mean()))
    assert outcome.verdict == "not_measured", outcome.message
