"""Contracts of how a training is set up: size of updates, types and padding of tables, balance of tasks."""

import math

import pytest
import torch
from torch import nn

from ctr_pipeline.gradients.contracts.first_steps import FirstSteps
from ctr_pipeline.gradients.contracts.kept_state import state_digest
from ctr_pipeline.gradients.contracts.padding_rows import check_padding_rows, padding_outcome
from ctr_pipeline.gradients.contracts.parameter_types import check_parameter_types, parameter_type_outcome
from ctr_pipeline.gradients.contracts.task_balance import balance_outcome, shared_gradients
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup
from ctr_pipeline.gradients.contracts.update_size import check_update_size, update_ratio, update_ratio_outcome


def test_the_ratio_of_an_update_is_that_of_root_mean_squares() -> None:
    before = torch.full((4, 25), 0.5)
    assert update_ratio(before, before - 0.25, is_table=False) == pytest.approx(0.5)
    # Weights near 0 count as those of a layer of this width, and biases not at all.
    assert update_ratio(torch.zeros(4, 25), torch.full((4, 25), 0.1), is_table=False) == pytest.approx(0.5)
    assert update_ratio(torch.zeros(4), torch.ones(4), is_table=False) == 0.0


def test_of_a_table_only_rows_that_moved_count() -> None:
    before, after = torch.zeros(1000, 4), torch.zeros(1000, 4)
    after[3] = 2.0
    assert update_ratio(before, after, is_table=True) == pytest.approx(10.0)


def test_a_size_that_is_no_number_fails() -> None:
    assert update_ratio_outcome({"a": 0.1, "b": 0.2}).verdict == "passed"
    assert update_ratio_outcome({}).verdict == "not_measured"
    found = update_ratio_outcome({"a": 9.0, "b": math.nan})
    assert (found.failed, found.where) == (True, "b")


@pytest.mark.parametrize(("peak", "failed"), [(0.1, False), (5.0, True)])
@pytest.mark.parametrize("share", [0.01, 1.0])
def test_the_peak_of_a_warm_up_is_judged_and_not_its_start(peak: float, failed: bool, share: float) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=peak * share)
    watch = FirstSteps(model, [optimizer], model[0], [peak])
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(32, 6)).square().mean().backward()
        optimizer.step()
    found = [outcome for outcome in watch.outcomes if outcome.name == "update_ratio"]
    assert [outcome.failed for outcome in found] == [failed]


def setup_of(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> TrainingSetup:
    ids = torch.tensor([[0, 4], [1, 4], [2, 3]])
    return TrainingSetup(
        model=model, batch=ids, forward=lambda model, ids: model(ids).flatten(1).sum(dim=1),
        loss=lambda z, _: (z - 1).square().mean(), optimizers=[] if optimizer is None else [optimizer],
    )  # fmt: skip


@pytest.mark.parametrize(("rate", "verdict"), [(0.05, "passed"), (3.0, "failed")])
def test_the_size_of_updates_of_any_training_is_checked_and_nothing_is_changed(rate: float, verdict: str) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Embedding(5, 2, padding_idx=4), nn.Linear(2, 2))
    setup = setup_of(model, torch.optim.Adam(model.parameters(), lr=rate))
    before = state_digest(model.state_dict(), setup.optimizers[0].state_dict())
    assert check_update_size(setup).verdict == verdict
    assert check_padding_rows(setup).verdict == "passed"
    assert check_parameter_types(setup).verdict == "passed"
    assert state_digest(model.state_dict(), setup.optimizers[0].state_dict()) == before
    assert check_update_size(setup_of(model, None)).verdict == "not_measured"


def test_a_padding_row_that_a_step_moves_is_found() -> None:
    model = nn.Embedding(5, 2, padding_idx=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def write(*_: object) -> None:
        with torch.no_grad():
            model.weight[4] += 1

    optimizer.register_step_post_hook(write)
    found = check_padding_rows(setup_of(model, optimizer))
    assert (found.failed, found.measured) == (True, 1.0)
    assert float(model.weight.detach()[4].abs().max()) == 0


def test_tables_in_16_bits_are_found() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(5, 2), "b": nn.Linear(2, 2)})
    assert parameter_type_outcome(model).verdict == "passed"
    model["a"] = model["a"].half()
    found = parameter_type_outcome(model)
    assert (found.failed, found.where) == (True, "a.weight")
    assert "1/2048" in found.message
    model["a"].requires_grad_(False)
    assert parameter_type_outcome(model).verdict == "passed"


def test_padding_rows_are_zeros_and_have_no_gradient() -> None:
    model = nn.ModuleDict({"seen": nn.Embedding(5, 2, padding_idx=4), "ad": nn.Embedding(5, 2)})
    assert padding_outcome(model).verdict == "passed"
    assert padding_outcome(model["ad"]).verdict == "not_measured"
    with torch.no_grad():
        model["seen"].weight[4, 0] = 0.1
    found = padding_outcome(model)
    assert (found.failed, found.where, found.measured) == (True, "seen.weight", pytest.approx(0.1))
    found = padding_outcome(model, {"ad": 0})
    assert (found.failed, found.where) == (True, "seen.weight")
    with torch.no_grad():
        model["seen"].weight[4] = 0.0
    found = padding_outcome(model, {"ad": 0})
    assert (found.failed, found.where) == (True, "ad.weight")
    assert "padding_idx=0" in found.message


def test_a_loss_weight_that_silences_a_task_is_found_and_one_that_makes_up_for_rare_labels_is_not() -> None:
    weights = {"click": 1.0, "buy": 1000.0}
    found = balance_outcome({"click": 1.0, "buy": 0.5}, weights)
    assert (found.failed, found.where) == (True, "buy")
    assert balance_outcome({"click": 1.0, "buy": 0.001}, weights).verdict == "passed"
    assert balance_outcome({"click": 1.0, "buy": 0.001}, {"click": 1.0, "buy": 1.0}).verdict == "passed"
    assert balance_outcome({"click": 1.0, "buy": 0.0}, weights).verdict == "not_measured"


def test_gradients_of_tasks_are_those_of_their_own_losses() -> None:
    layer = nn.Linear(2, 1, bias=False)
    outputs = layer(torch.tensor([[3.0, 4.0]]))
    fixed = torch.tensor(1.0)
    assert shared_gradients([outputs.sum(), 2 * outputs.sum(), fixed], [layer.weight]) == pytest.approx([5.0, 10.0, 0])
