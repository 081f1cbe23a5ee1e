"""Each kind of rule tells what it is made for, and says nothing of what is sound."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.triage.batch_rules import batch_clues
from ctr_pipeline.gradients.triage.comparison import compare
from ctr_pipeline.gradients.triage.contract_rules import contract_clues
from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence
from ctr_pipeline.gradients.triage.feature_rules import feature_clues
from ctr_pipeline.gradients.triage.gradient_rules import (
    Received,
    Written,
    late_clues,
    received_clues,
    state_clues,
    written_clues,
)
from ctr_pipeline.gradients.triage.label_rules import label_clues, weight_clues
from ctr_pipeline.gradients.triage.loss_rules import loss_clues, task_weight_clues
from ctr_pipeline.gradients.triage.model_rules import coverage_clues, initial_clues, model_clues, setting_clues
from ctr_pipeline.gradients.triage.row_sample import Rows
from ctr_pipeline.gradients.triage.run_rules import run_clues
from ctr_pipeline.losses.multi_task import TaskObjectives, multi_task_loss
from ctr_pipeline.spec.objectives import Binary


def causes(clues: Iterable[Clue]) -> set[str]:
    return {clue.cause for clue in clues if clue.weight >= 0.5}


def rows(seed: int, count: int = 6000) -> Rows:
    """A number and an id that predict the outcome, and an id that does not."""
    rng = np.random.default_rng(seed)
    number = rng.normal(size=count)
    ids = np.stack([2 + np.minimum(rng.exponential(8, count), 30).astype(int), 2 + rng.integers(0, 5, count)], axis=1)
    taste = np.random.default_rng(1).normal(size=40)
    chance = 1 / (1 + np.exp(1.2 - number - taste[ids[:, 0]]))
    labels = (rng.random(count) < chance).astype(np.int8)[:, None]
    return Rows(
        numbers=number[:, None], ids=ids, labels=labels, weights=np.ones((count, 1)), number_names=["price"],
        id_names=["ad", "device"], tasks=("click",),
    )  # fmt: skip


def changed(given: Rows, **arrays) -> Rows:
    names = ("numbers", "ids", "labels", "weights")
    kept = {name: np.array(getattr(given, name)) for name in names} | arrays
    return Rows(number_names=given.number_names, id_names=given.id_names, tasks=given.tasks, **kept)


def exchanged(labels, share: float):
    wrong = np.random.default_rng(3).random(labels.shape) < share
    return np.where(wrong, 1 - labels, labels)


def permuted(labels, share: float):
    rng = np.random.default_rng(4)
    found = labels.copy()
    at = np.flatnonzero(rng.random(len(labels)) < share)
    found[at] = found[rng.permutation(at)]
    return found


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda y: y, None),
        (lambda y: permuted(y, 1.0), "label_permute"),
        (lambda y: permuted(y, 0.5), "label_permute"),
        (lambda y: exchanged(y, 0.2), "label_noise"),
        (lambda y: 1 - y, "label_flip"),
        (lambda y: np.roll(y, 2, axis=0), "row_shift"),
        (lambda y: np.where(np.random.default_rng(5).random(y.shape) < 0.6, 0, y), "base_rate_shift"),
    ],
)
def test_labels_are_judged_by_a_model_of_trusted_rows(change, cause: str | None) -> None:
    train = rows(1)
    train = changed(train, labels=change(train.labels).astype(np.int8))
    found = {clue.cause: clue.weight for clue in label_clues(train, train, rows(2))}
    assert max(found, key=lambda name: found[name], default=None) == cause


def test_features_are_compared_with_trusted_rows() -> None:
    train, trusted = rows(1), rows(2)
    shuffled = np.random.default_rng(6).permutation(train.numbers)
    cases = {
        None: train,
        "unnormalised_feature": changed(train, numbers=train.numbers * 100),
        "feature_missing": changed(train, numbers=np.full_like(train.numbers, np.nan)),
        "infinite_feature": changed(train, numbers=np.where(train.numbers > 3, np.inf, train.numbers)),
        "hash_clip": changed(train, ids=np.where(train.ids > 8, 32, train.ids)),
        "ids_misplaced": changed(train, ids=np.stack([34 - train.ids[:, 0], train.ids[:, 1]], axis=1)),
    }
    for cause, own in cases.items():
        assert causes(feature_clues(own, trusted)) == ({cause} if cause else set()), cause
    assert causes(feature_clues(train, changed(trusted, numbers=trusted.numbers * 100))) == {"train_serving_skew"}
    elsewhere = changed(trusted, labels=permuted(trusted.labels, 1.0))
    assert causes(label_clues(train, train, elsewhere)) == {"train_serving_skew"}
    lost = changed(train, numbers=shuffled)
    found = [clue for clue in label_clues(lost, lost, trusted) if clue.weight >= 0.5]
    assert [(clue.cause, clue.location) for clue in found] == [("feature_permuted", "price")]
    leaking = changed(train, numbers=np.where(train.labels == 1, 1.0, -1.0) + 0.8 * shuffled)
    assert "leak" in causes(label_clues(leaking, leaking, trusted))


def test_weights_have_a_mean_of_1_and_no_few_large_ones() -> None:
    train = rows(1)
    even = np.random.default_rng(7).uniform(1e-3, 1, train.weights.shape)
    assert causes(weight_clues(train)) == set()
    assert causes(weight_clues(changed(train, weights=(1 / even) / (1 / even).mean()))) == {"ips_unclipped"}
    assert causes(weight_clues(changed(train, weights=train.weights * 4))) == {"weights_scaled"}
    assert causes(weight_clues(changed(train, weights=-train.weights))) == {"bad_weight"}


OBJECTIVES = TaskObjectives([Binary(), Binary()])
TASKS = ("click", "cart")


def batch() -> BatchView:
    labels = torch.randint(-1, 2, (400, 2), generator=torch.Generator().manual_seed(2)).to(torch.int8)
    some = torch.zeros(400, 1)
    return BatchView(
        numeric=some,
        ids=some.int(),
        labels=labels,
        weights=torch.ones(400, 2),
        rows=torch.arange(400),
        position=some[:, 0].short(),
    )


def with_sums(change):
    def loss(z: Tensor, b: BatchView, counts: Tensor) -> tuple[Tensor, Tensor]:
        return multi_task_loss(change(z, b.labels, b.weights), counts, torch.ones(2))

    return loss


def logarithms(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    each = -torch.where(y == 1, torch.log(p), torch.log(1 - p)) * w
    return torch.where(y >= 0, each, 0.0).sum(dim=0)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (OBJECTIVES.task_sums, None),
        (lambda z, y, w: OBJECTIVES.task_sums(z, y, w) * len(z), "loss_sum"),
        (lambda z, y, w: OBJECTIVES.task_sums(z, y, w) * 4, "accum_nodiv"),
        (lambda z, y, w: OBJECTIVES.task_sums(torch.sigmoid(z), y, w), "double_sigmoid"),
        (lambda z, y, w: -OBJECTIVES.task_sums(z, y, w), "sign_flip"),
        (lambda z, y, w: OBJECTIVES.task_sums(z, y.clamp_min(0), w), "unknown_as_zero"),
        (lambda z, y, w: OBJECTIVES.task_sums(z, y, w * w), "weights_misapplied"),
        (lambda z, y, w: OBJECTIVES.task_sums(z, y, torch.where(y == 1, 3 * w, w)), "class_weights"),
        (logarithms, "log0"),
    ],
)
def test_the_gradient_at_made_up_logits_tells_the_fault_of_a_loss(change, cause: str | None) -> None:
    found = list(loss_clues(with_sums(change), OBJECTIVES, batch(), torch.ones(2), TASKS))
    best = max(found, key=lambda clue: clue.weight, default=None)
    assert (best.cause if best else None) == cause
    assert best is None or best.separating


def test_loss_weights_are_the_declared_ones() -> None:
    assert not list(task_weight_clues(torch.ones(2), torch.ones(2), TASKS))
    assert causes(task_weight_clues(torch.tensor([1.0, 300.0]), torch.ones(2), TASKS)) == {"task_weight_huge"}
    assert causes(task_weight_clues(torch.tensor([1.0, 300.0]), torch.tensor([1.0, 300.0]), TASKS)) == {
        "task_weight_huge"
    }


def gradients(*factors: float, size: int = 400) -> list[Received]:
    generator = torch.Generator().manual_seed(3)
    own = [torch.randn(size, generator=generator).double() * 10**-place for place in range(len(factors))]
    return [
        Received(f"layer.{n}", value, value * factor)
        for n, (value, factor) in enumerate(zip(own, factors, strict=True))
    ]


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (gradients(1, 1, 1), None),
        (gradients(1024, 1024, 1), "amp_no_unscale"),
        (gradients(3, 3, 3), "accum_nodiv"),
        (gradients(1, 0, 1), "gradient_zeroed"),
        (gradients(1, -1, 1), "gradient_reversed"),
        (gradients(1, 1, 0.2), "gradient_changed"),
        ([Received(g.name, g.expected, g.expected * 0.01 / g.expected.norm()) for g in gradients(1, 1, 1)], "clip_per_param"),
        ([Received(g.name, g.expected, g.expected.clamp(-0.05, 0.05)) for g in gradients(1, 1)], "clip_by_value"),
        ([Received(g.name, g.expected, (g.expected * 1e-6).half().double() * 1e6) for g in gradients(1)], "amp_no_scaling"),
        ([Received(g.name, g.expected, torch.where(g.expected.abs() < 0.05, 0.0, g.expected)) for g in gradients(1)], "gradient_zeroed"),
        ([Received(g.name, g.expected, g.expected.sign()) for g in gradients(1, 1)], "gradient_changed"),
        ([Received(g.name, g.expected, g.expected.bfloat16().double()) for g in gradients(1, 1)], "gradient_changed"),
        ([Received(g.name, g.expected, g.expected + g.expected.flip(0)) for g in gradients(1, 1)], "gradient_changed"),
    ],
)  # fmt: skip
def test_what_an_optimizer_receives_is_the_gradient_of_the_loss(given: list[Received], cause: str | None) -> None:
    best = max(received_clues(given, clip_norm=1e9), key=lambda clue: clue.weight, default=None)
    assert (best.cause if best else None) == cause


def test_late_gradients_are_those_of_the_step_before() -> None:
    generator = torch.Generator().manual_seed(1)
    own, earlier = ({"a": torch.randn(40, generator=generator), "b": torch.randn(9, generator=generator)} for _ in "12")
    assert causes(late_clues(earlier, own, earlier)) == {"stale_gradients"}
    assert causes(late_clues(own, own, earlier)) == set()
    # Of a whole epoch in each batch both are alike.
    assert causes(late_clues(own, own, own)) == set()
    assert causes(late_clues(own, own, {})) == set()


def test_a_step_writes_what_its_optimizer_writes() -> None:
    before = torch.ones(50, 4)
    own = before.clone()
    own[:10] -= 0.1

    def written(after: Tensor) -> set[str]:
        return causes(written_clues([Written("table", before, after, own, True)], {"table": 0.1}))

    assert written(own.clone()) == set()
    assert written(own * 0.99) == {"l2_in_adam"}
    assert written(own.bfloat16().float()) == {"fp16_embedding"}
    assert written(torch.cat([before[:10], own[10:]])) == {"weights_overwritten"}


def test_models_and_optimizers_are_looked_at_before_any_step() -> None:
    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Dropout(0.2), nn.Linear(30, 1)).train()

    assert not [*model_clues(made()), *initial_clues(made(), {}, {})]
    large, equal, small, stopped, dropping, infinite, half = (made() for _ in range(7))
    with torch.no_grad():
        large[0].weight.mul_(20)
        equal[0].weight.fill_(0.1)
        small[0].weight.mul_(1e-4)
        infinite[0].weight[0, 0] = math.inf
    stopped[2].eval()
    dropping[2].p = 0.95
    half[3].half()
    assert causes(initial_clues(large, {}, {})) == {"bad_init_large"}
    assert causes(initial_clues(equal, {}, {})) == {"bad_init_const"}
    assert causes(initial_clues(small, {}, {})) == {"bad_init_small"}
    tables = {"ad": (torch.randn(100, 4), 0.02), "query": (0.02 * torch.randn(100, 4), 0.02)}
    found = list(initial_clues(made(), tables, {"ad": "table", "query": "table"}))
    assert [(clue.cause, clue.location) for clue in found] == [("new_embedding_huge", "ad")]
    for model, cause in (
        (stopped, "eval_mode"),
        (dropping, "dropout_too_high"),
        (infinite, "nonfinite_weight"),
        (half, "fp16_embedding"),
    ):
        assert causes(model_clues(model)) == {cause}


def test_optimizers_hold_each_parameter_once_with_usual_settings() -> None:
    model = nn.Linear(3, 2)
    stale = nn.Parameter(torch.zeros(2, 3))
    assert not list(coverage_clues(model, [torch.optim.AdamW(model.parameters())]))
    assert causes(coverage_clues(model, [torch.optim.SGD([model.weight], lr=0.1)])) == {"optimizer_misses_table"}
    assert causes(coverage_clues(model, [torch.optim.SGD([stale, model.bias], lr=0.1)])) == {"stale_optimizer"}
    twice = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD([model.bias], lr=0.1)]
    assert causes(coverage_clues(model, twice)) == {"parameter_held_twice"}
    assert not list(setting_clues([torch.optim.AdamW(model.parameters(), weight_decay=0.01)]))
    assert causes(setting_clues([torch.optim.AdamW(model.parameters(), maximize=True)])) == {"gradient_reversed"}
    assert causes(setting_clues([torch.optim.AdamW(model.parameters(), eps=1.0)])) == {"optimizer_settings"}
    assert causes(setting_clues([torch.optim.AdamW(model.parameters(), weight_decay=3.0)])) == {"huge_weight_decay"}


def test_the_stop_and_the_findings_are_read() -> None:
    stop = {"kind": "input", "tensor": "ids", "feature": "ad", "message": "step 3: feature ad has id 99", "step": 3}
    (found,) = run_clues(RunEvidence(cause=stop))
    assert (found.cause, found.location) == ("id_out_of_range", "ad")
    finding = {
        "name": "loss_gradient",
        "severity": "error",
        "message": "at step 0: r = 64: the loss is summed and not averaged",
    }
    assert causes(run_clues(RunEvidence(findings=[finding]))) == {"loss_sum"}
    late = {
        "kind": "contract",
        "contract": "missing_values",
        "tensor": "price",
        "feature": "price",
        "message": "missing",
    }
    assert causes(contract_clues(RunEvidence(cause=late))) == {"feature_missing"}


def test_the_last_good_training_tells_what_is_new() -> None:
    good = RunEvidence(settings={"learning_rate": 0.001}, steps=[{"grad_norm": 1.0, "loss": 0.5}] * 20)
    own = RunEvidence(settings={"learning_rate": 0.4}, steps=[{"grad_norm": 9.0, "loss": 0.5}] * 20)
    found = compare(own, good, ["ad", "price"], ["price"])
    assert found.new_features == ("ad",)
    assert any("learning_rate is 0.4, and 0.001" in fact for fact in found.facts)
    assert any("gradient norm of the first steps is 9, 9 times" in fact for fact in found.facts)
    assert causes(found.clues) == {"huge_lr"}
    assert compare(good, good, ["ad"], ["ad"]).facts == ()


def stored_rows() -> BatchView:
    generator = torch.Generator().manual_seed(4)
    return BatchView(
        numeric=torch.randn(100, 1, generator=generator), ids=torch.randint(2, 40, (100, 1), generator=generator),
        labels=torch.randint(0, 2, (100, 1), generator=generator).to(torch.int8), weights=torch.ones(100, 1),
        rows=torch.arange(100), position=torch.zeros(100),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda _: {}, None),
        (
            lambda b: {"labels": b.labels[torch.randperm(100, generator=torch.Generator().manual_seed(1))]},
            "label_permute",
        ),
        (lambda b: {"labels": b.labels.roll(1, 0)}, "row_shift"),
        (lambda b: {"labels": 1 - b.labels}, "label_flip"),
        (lambda b: {"labels": torch.full_like(b.labels, -1)}, "mask_drops_labels"),
        (lambda b: {"weights": b.weights * 9}, "weights_scaled"),
        (lambda b: {"numeric": b.numeric * 50}, "unnormalised_feature"),
        (lambda b: {"numeric": b.numeric.flip(0)}, "feature_permuted"),
        (lambda b: {"numeric": b.numeric.log()}, "feature_missing"),
        (lambda b: {"ids": b.ids.clamp_max(6)}, "hash_clip"),
        (lambda b: {"ids": b.ids.flip(0)}, "feature_permuted"),
    ],
)
def test_a_batch_is_compared_with_the_rows_that_it_was_read_from(change, cause: str | None) -> None:
    stored = stored_rows()
    own = replace(stored, **change(stored))
    assert causes(batch_clues(own, stored, ["price"], ["ad"])) == ({cause} if cause else set())


def test_an_optimizer_remembers_its_updates() -> None:
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(layer.parameters())
    for _ in range(3):
        layer(torch.ones(4, 2)).sum().backward()
        optimizer.step()
    assert not list(state_clues(optimizer, 3))
    optimizer.state.clear()
    assert causes(state_clues(optimizer, 3)) == {"optimizer_state_reset"}
    assert not list(state_clues(torch.optim.SGD(layer.parameters(), lr=0.1), 3))


def test_what_is_wrong_of_one_task_alone_is_not_sure() -> None:
    def two(seed: int, flipped: bool) -> Rows:
        own = rows(seed)
        second = exchanged(own.labels, 0.1)
        labels = np.concatenate([own.labels, 1 - second if flipped else second], axis=1).astype(np.int8)
        return Rows(
            numbers=own.numbers, ids=own.ids, labels=labels, weights=np.ones_like(labels, dtype=float),
            number_names=own.number_names, id_names=own.id_names, tasks=("click", "cart"),
        )  # fmt: skip

    train = two(1, True)
    (found,) = (clue for clue in label_clues(train, train, two(2, False)) if clue.cause == "label_flip")
    assert found.location == "cart"
    assert not found.separating
    assert "of the tasks before it nothing is wrong" in found.text
