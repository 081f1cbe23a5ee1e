"""Mistakes in losses, layers and loops: each does to a built training what it says."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.drills import (
    fault_named,
    layer_mistakes,
    loop_mistakes,
    objective_mistakes,
    registered_faults,
)
from ctr_pipeline.gradients.drills.benign_variants import BENIGN
from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.training.drilling.drilled_run import PreparedDrill, prepare_drill
from ctr_pipeline.training.drilling.made_up_rows import make_rows
from ctr_pipeline.training.loop import Trainer

MODULES = (layer_mistakes, loop_mistakes, objective_mistakes)
MISTAKES = [
    fault
    for fault in registered_faults()
    if any(f'name="{fault.name}"' in Path(module.__file__).read_text() for module in MODULES)
]


def prepared(fault: Fault, folder: Path, seed: int = 1) -> PreparedDrill:
    return prepare_drill(replace(fault, training={"epochs": 1} | dict(fault.training)), seed, folder / fault.name)


def built(name: str, folder: Path) -> Trainer:
    drill = prepared(fault_named(name), folder)
    return drill.build(drill.job.output)


def healthy(name: str, folder: Path) -> Trainer:
    """The same training without the fault."""
    drill = prepared(replace(BENIGN[0], model=fault_named(name).model), folder)
    return drill.build(drill.job.output)


class Steps:
    """Notes something of the model and its optimizers after each step."""

    def __init__(self, of: Callable[[nn.Module, list[torch.optim.Optimizer]], Any]) -> None:
        self.found: list[Any] = []
        self._of = of

    def watch(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers

    def on_step(self, record: StepRecord, steps: int) -> None:  # noqa: ARG002
        self.found.append(self._of(self._model, self._optimizers))

    def on_epoch(self, metrics: Any) -> None:
        """Nothing."""

    def on_refit(self, epochs: int) -> None:
        """Nothing."""


def followed(name: str, folder: Path, of: Callable[[nn.Module, list[torch.optim.Optimizer]], Any]) -> list[Any]:
    steps = Steps(of)
    prepared(fault_named(name), folder).run(contracts=False, observers=(steps,))
    return steps.found


def batch(rows: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and weights of some rows."""
    made = make_rows(rows, 3)
    logits = torch.randn((rows, 2), generator=torch.Generator().manual_seed(1), requires_grad=True)
    return logits, torch.from_numpy(made.labels), torch.from_numpy(made.weights)


def inputs(rows: int = 64) -> tuple[Tensor, Tensor]:
    made = make_rows(rows, 3)
    return torch.from_numpy(made.numeric), torch.from_numpy(made.ids)


def test_each_is_of_a_family_that_is_only_scored() -> None:
    assert len(MISTAKES) == 23
    assert {fault.half for fault in MISTAKES} == {"scored"}
    assert len({fault.family for fault in MISTAKES}) == len(MISTAKES)


def test_the_mask_of_clicks_leaves_out_what_had_none(tmp_path: Path) -> None:
    z, y, w = batch()
    built("mask_of_clicks", tmp_path).objectives.task_sums(z, y, w).sum().backward()
    assert z.grad is not None
    learnt = z.grad != 0
    assert learnt[:, 0].all()
    assert (learnt[:, 1] == ((y[:, 0] == 1) & (y[:, 1] >= 0))).all()


def test_the_more_frequent_class_has_the_larger_weight(tmp_path: Path) -> None:
    z, y, w = batch()
    trainer, sound = (make("classes_have_each_others_weight", tmp_path) for make in (built, healthy))
    own, right = (
        torch.autograd.grad(one.objectives.task_sums(z, y, w).sum(), z)[0] / binary_gradient(z, y)
        for one in (trainer, sound)
    )
    labels = trainer.train.labels
    for task in (0, 1):
        share = (labels[:, task] == 1).sum() / (labels[:, task] >= 0).sum()
        known = y[:, task] == 0, y[:, task] == 1
        for place, expected in zip(known, (1 / (2 * share), 1 / (2 * (1 - share))), strict=True):
            torch.testing.assert_close(
                own[place, task], torch.full_like(own[place, task], float(expected)), rtol=1e-3, atol=1e-4
            )
            torch.testing.assert_close(right[place, task], torch.ones_like(right[place, task]))


def binary_gradient(z: Tensor, y: Tensor) -> Tensor:
    return torch.sigmoid(z.detach()) - (y == 1).float()


def test_sums_of_the_tasks_are_left_out_shifted_limited_and_divided(tmp_path: Path) -> None:
    z, y, w = batch()
    right = healthy("sampling_offset_left", tmp_path).objectives.task_sums
    usual = right(z, y, w)
    first = built("first_task_alone", tmp_path).objectives.task_sums(z, y, w)
    assert first.tolist() == [usual[0].item(), 0.0]
    offset = built("sampling_offset_left", tmp_path).objectives.task_sums(z, y, w)
    assert any(torch.allclose(offset, right(z + kept, y, w), rtol=0.01) for kept in np.log(np.linspace(0.1, 0.25, 300)))
    assert not torch.allclose(offset, usual, rtol=0.05)
    known = (y >= 0).sum(dim=0)
    positives = (y == 1).sum(dim=0)
    divided = built("mean_over_positives", tmp_path).objectives.task_sums(z, y, w)
    torch.testing.assert_close(divided, usual * known / positives)


def test_a_limited_loss_has_no_gradient_where_it_is_large(tmp_path: Path) -> None:
    z = torch.linspace(-6, 6, 200).repeat(2, 1).T.contiguous().requires_grad_()
    y, w = torch.ones((200, 2), dtype=torch.int8), torch.ones((200, 2))
    built("loss_limited", tmp_path).objectives.task_sums(z, y, w).sum().backward()
    assert z.grad is not None
    each = binary_cross_entropy_with_logits(z, torch.ones_like(z), reduction="none")
    assert (z.grad[each > 3.5] == 0).all()
    assert (z.grad[each < 2.5] != 0).all()


def test_the_rows_of_one_day_have_the_most_weight() -> None:
    rows = make_rows(10_000, 5)
    weights = fault_named("one_day_counts").rows(rows, np.random.default_rng(7)).weights
    heavy = np.flatnonzero(weights[:, 0] > weights.min())
    assert len(heavy) == 200
    assert np.ptp(heavy) == 199
    assert weights.mean() == pytest.approx(1, abs=1e-3)
    assert 79 < weights.max() / weights.min() < 151


def test_a_head_without_bias_does_not_read_it(tmp_path: Path) -> None:
    trainer, sound = (make("head_without_bias", tmp_path) for make in (built, healthy))
    given = torch.randn(8, trainer.model.head.in_features)
    torch.testing.assert_close(trainer.model.head(given), sound.model.head(given) - sound.model.head.bias)
    before = trainer.model.head(given)
    with torch.no_grad():
        trainer.model.head.bias.add_(3.0)
    torch.testing.assert_close(trainer.model.head(given), before)


@pytest.mark.parametrize("name", ["sigmoid_units", "skip_dropped"])
def test_a_tower_computes_something_else(name: str, tmp_path: Path) -> None:
    trainer, sound = (make(name, tmp_path).model.eval() for make in (built, healthy))
    hidden, usual = (model.hidden(model.encode(*inputs())) for model in (trainer, sound))
    assert hidden.shape == usual.shape
    assert not torch.allclose(hidden, usual, rtol=0.1)
    if name == "sigmoid_units":
        assert ((hidden > 0) & (hidden < 1)).all()


def test_reshaped_embeddings_are_those_of_other_rows(tmp_path: Path) -> None:
    numeric, ids = inputs()
    other = ids.clone()
    other[1:] = ids[1:].flip(0)
    for make, depends in ((built, True), (healthy, False)):
        model = make("rows_reshaped", tmp_path).model.eval()
        first, again = (model(numeric[:, :], given)[0] for given in (ids, other))
        assert torch.allclose(first, again) != depends


def test_outputs_are_exchanged_when_scoring_alone(tmp_path: Path) -> None:
    trainer, sound = (make("heads_exchanged_at_scoring", tmp_path).model.head for make in (built, healthy))
    given = torch.randn(8, trainer.in_features)
    torch.testing.assert_close(trainer.train()(given), sound(given))
    torch.testing.assert_close(trainer.eval()(given), sound(given).flip(1))


def test_exclusive_tasks_have_probabilities_that_add_up(tmp_path: Path) -> None:
    head = built("softmax_over_tasks", tmp_path).model.head
    torch.testing.assert_close(head(torch.randn(8, head.in_features)).exp().sum(dim=1), torch.ones(8))


def test_tables_are_frozen_after_some_steps(tmp_path: Path) -> None:
    tables = followed(
        "tables_frozen_later", tmp_path, lambda model, _: model.get_parameter("embeddings.tables.width_4.table.weight").detach().clone()
    )  # fmt: skip
    moved = [not torch.equal(before, after) for before, after in pairwise(tables)]
    last = moved.index(False)
    assert 8 <= last <= 29
    assert not any(moved[last:])


def test_rates_follow_epochs_or_differ_by_group(tmp_path: Path) -> None:
    def rates(_: nn.Module, optimizers: list[torch.optim.Optimizer]) -> list[float]:
        return [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]

    by_epoch = followed("schedule_by_epoch", tmp_path, rates)
    assert len(by_epoch) == 60
    assert all(own == by_epoch[0] for own in by_epoch)
    assert by_epoch[0][0] < 0.003 / 3
    groups = followed("group_of_lower_rate", tmp_path, rates)
    assert all(own[0] < 0.011 * own[1] for own in groups if own[1])


def test_biases_alone_decay(tmp_path: Path) -> None:
    layers, biases = built("biases_decay", tmp_path).optimizers[0].param_groups
    assert layers["weight_decay"] == 1e-5
    assert 5 <= biases["weight_decay"] <= 15
    assert all(parameter.ndim == 1 for parameter in biases["params"])


def test_the_last_lookup_of_a_row_alone_has_a_gradient(tmp_path: Path) -> None:
    for make, expected in ((built, [1.0, 1.0]), (healthy, [3.0, 1.0])):
        table = next(iter(make("last_lookup_counts", tmp_path).model.embeddings.tables.values()))
        table.table(torch.tensor([[5, 7], [5, 5]])).sum().backward()
        assert table.table.weight.grad.to_dense()[[5, 7], 0].tolist() == expected


def test_parameters_of_one_shape_share_moments(tmp_path: Path) -> None:
    def addresses(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> list[int]:
        layers = [model.get_parameter(f"tower.{place}.linear.weight") for place in (1, 2)]
        return [optimizers[0].state[layer]["exp_avg"].data_ptr() for layer in layers]

    assert all(first == second for first, second in followed("moments_shared", tmp_path, addresses))


def test_layers_that_were_not_loaded_are_0(tmp_path: Path) -> None:
    trainer, sound = (make("partly_loaded", tmp_path).model for make in (built, healthy))
    for name, parameter in trainer.named_parameters():
        if name == "tower.1.linear.weight":
            assert (parameter == 0).all()
        else:
            torch.testing.assert_close(parameter, sound.get_parameter(name))


def scores(fault: Fault, folder: Path) -> Any:
    drill = prepare_drill(fault, 1, folder / fault.name)
    done = drill.run(contracts=False)
    stored = np.load(drill.job.output / "scores" / "validation.npy")[:, 0]
    labels = drill.dataset.splits["validation"].labels[:, 0]
    return done.metrics, done.validation, float(np.mean(np.logaddexp(0, stored) - labels * stored))


@pytest.mark.parametrize("name", ["average_stored", "first_epoch_stored"])
def test_another_model_is_stored_than_was_validated(name: str, tmp_path: Path) -> None:
    (steps, validation, loss), (usual_steps, usual_validation, usual) = (
        scores(fault, tmp_path) for fault in (fault_named(name), BENIGN[0])
    )
    assert (steps, validation) == (usual_steps, usual_validation)
    assert loss > usual + 0.003


def test_a_resumed_epoch_reads_its_first_batches_again() -> None:
    columns = {"numeric": 2, "ids": 3, "labels": 2, "weights": 2}
    read = [
        BatchView(
            **{name: torch.zeros((4, width)) for name, width in columns.items()},
            rows=torch.arange(4) + 4 * at, position=torch.zeros(4),
        )
        for at in range(60)
    ]  # fmt: skip
    change = fault_named("epoch_from_its_start").batches
    assert change is not None
    firsts = [int(one.rows[0]) for one in change(iter(read), 0, np.random.default_rng(3))]
    assert len(firsts) == 60
    again = firsts.index(0, 1)
    assert 7 <= again <= 12
    assert firsts[again:] == firsts[:-again]
