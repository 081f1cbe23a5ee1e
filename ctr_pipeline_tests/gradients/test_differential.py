"""Differences have forms, forms tell causes, and what a comparison does not bear out is set back."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ctr_pipeline.gradients.adapters.update_oracle import (
    UpdateInput,
    adamw_state,
    adamw_update,
    rowwise_adagrad_state,
    rowwise_adagrad_update,
)
from ctr_pipeline.gradients.triage.causes import CAUSES
from ctr_pipeline.gradients.triage.difference_rules import forward_difference, initial_differences, setting_differences
from ctr_pipeline.gradients.triage.differential import COMPARED, GENERIC, STAGES, at_stage, generic_clue, only_here
from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.forms import form_of, is_apart
from ctr_pipeline.gradients.triage.ranking import rank
from ctr_pipeline.gradients.triage.state_rules import ROUNDING, state_differences
from ctr_pipeline.training.optimizers import RowwiseAdagrad


def values(rows: int = 40, columns: int = 6) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(2)) + 0.3


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda v: v * 3, "factor"),
        (lambda v: -v, "sign"),
        (lambda v: v * 0, "zero"),
        (lambda v: torch.ones_like(v), "constant"),
        (lambda v: v.roll(2, 0), "rows_shifted"),
        (lambda v: v[torch.randperm(40, generator=torch.Generator().manual_seed(1))], "rows_permuted"),
        (lambda v: v - v.mean(0), "centred"),
        (lambda v: v + torch.arange(6.0), "offset"),
        (lambda v: (v - v.mean(0)) / v.std(0), "rescaled"),
        (lambda v: v[:, [1, 0, 2, 3, 4, 5]], "columns_exchanged"),
        (lambda v: v.bfloat16().float(), "rounded"),
        (lambda v: v * torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]), "columns_zero"),
        (lambda v: v.reshape(40, 3, 2)[:, [1, 0, 2]].reshape(40, 3, 2), "columns_exchanged"),
        (torch.sigmoid, "sigmoid"),
        (lambda v: v.clamp(-0.5, 0.5), "limited"),
        (torch.relu, "limited"),
        (lambda v: v * (torch.rand(40, 6, generator=torch.Generator().manual_seed(3)) > 0.5) * 2, "dropped"),
        (lambda v: torch.cat([v[:, :1] ** 2, v[:, 1:]], dim=1), "some_columns"),
        (lambda v: torch.cat([v[:10] ** 2, v[10:]]), "some_rows"),
        (lambda v: v.log(), "not_finite"),
        (lambda v: v[:, :3], "shape"),
        (lambda v: v + values(40, 6).flip(0).flip(1) ** 2, "other"),
    ],
)  # fmt: skip
def test_a_difference_has_a_form(change: Callable[[Tensor], Tensor], name: str) -> None:
    own = change(values())
    expected = values().reshape(own.shape) if own.numel() == values().numel() else values()
    assert is_apart(own, expected, 1e-5)
    assert form_of(own, expected).name == name


@given(st.integers(0, 10_000), st.floats(-7, -5.2))
def test_rounding_is_no_difference(seed: int, digits: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(7, 3, generator=generator)
    noise = torch.rand(7, 3, generator=generator).clamp(max=1.0) * own.abs().max()
    assert not is_apart(own + noise * 10**digits, own, 1e-5)
    assert not is_apart(
        own.clone().index_fill(0, torch.tensor([1]), torch.nan), own.index_fill(0, torch.tensor([1]), torch.nan), 1e-5
    )


def clue(cause: str, weight: float = 0.93, stage: str = "", *, separating: bool = True) -> Clue:
    return Clue(cause=cause, weight=weight, text=f"{cause} {stage}", separating=separating, stage=stage)


def test_a_stage_that_differs_sets_back_what_it_does_not_need() -> None:
    found = rank([clue("label_permute", 0.95), *at_stage([clue("gradient_zeroed")], "received")], (COMPARED,))
    assert found.hypotheses[0].cause == "gradient_zeroed"
    assert found.sure
    assert found.differing == ("received",)
    (other,) = [h for h in found.hypotheses if h.cause == "label_permute"]
    assert other.score < 0.4
    assert "does not explain" in other.against[0]


def test_without_a_difference_code_is_set_back_and_rows_and_settings_are_not() -> None:
    found = rank([clue("weights_overwritten"), clue("huge_lr", 0.5), clue("leak", 0.9)], (COMPARED,))
    assert [h.cause for h in found.hypotheses[:2]] == ["leak", "huge_lr"]
    assert found.sure
    assert found.differing == ()
    # Where nothing was compared, nothing is set back.
    assert rank([clue("weights_overwritten")]).sure


def test_a_difference_without_a_known_form_names_its_stage_and_is_not_sure() -> None:
    found = rank([generic_clue("forward", "the output of tower is not what …", "tower"), clue("leak")], (COMPARED,))
    assert (found.hypotheses[0].cause, found.hypotheses[0].location) == ("forward_differs", "tower")
    assert not found.sure
    assert found.differing == ("forward",)


def test_the_first_stage_that_differs_leads_and_two_are_not_sure() -> None:
    found = rank([*at_stage([clue("tiny_lr")], "update"), *at_stage([clue("temperature")], "forward")], (COMPARED,))
    assert found.hypotheses[0].cause == "temperature"
    assert found.differing == ("forward", "update")


def test_what_the_declared_training_shows_too_is_declared() -> None:
    both = clue("dropout_too_high")
    (found,) = only_here([both], [both])
    assert found.stage == ""
    assert next(only_here([both], [])).stage == "initial"
    # What is of rows alone is no stage of the code.
    assert next(only_here([clue("leak")], [])).stage == ""
    assert next(only_here([clue("huge_lr", 0.2)], [])).stage == ""


def test_each_stage_has_words_and_a_cause_of_its_own() -> None:
    assert set(GENERIC) == set(STAGES)
    assert set(GENERIC.values()) <= set(CAUSES)


def changed(change: Callable[[nn.Module], None]) -> list[Clue]:
    torch.manual_seed(0)
    declared = nn.ModuleDict({
        "table": nn.Embedding(30, 4, padding_idx=29), "body": nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1)),
        "head": nn.Linear(8, 1), "numeric": nn.BatchNorm1d(2),
    })  # fmt: skip
    own = copy.deepcopy(declared)
    with torch.no_grad():
        change(own)
    return list(initial_differences(own, declared))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda _: None, None),
        (lambda m: m["table"].weight[:29].mul_(4), "new_embedding_huge"),
        (lambda m: m["table"].weight[29].fill_(1.0), "padding_row_trained"),
        (lambda m: m["body"][0].weight.mul_(3), "bad_init_large"),
        (lambda m: m["body"][0].weight.mul_(0.1), "bad_init_small"),
        (lambda m: m["body"][0].weight.fill_(0.3), "bad_init_const"),
        (lambda m: m["body"][0].weight.copy_(m["body"][0].weight.flip(0)), "initial_differs"),
        (lambda m: m["head"].bias.fill_(5.0), "no_base_rate"),
        (lambda m: m["body"][0].bias.fill_(-20.0), "dead_relu"),
        (lambda m: m["body"].half(), "fp16_embedding"),
        (lambda m: m["body"].requires_grad_(False), "frozen_tower"),
        (lambda m: setattr(m["body"][1], "p", 0.9), "dropout_too_high"),
        (lambda m: setattr(m["table"], "max_norm", 0.1), "weights_overwritten"),
        (lambda m: m["numeric"].running_mean.fill_(3.0), "unnormalised_feature"),
        (lambda m: m["body"].append(nn.Linear(8, 8)), "initial_differs"),
    ],
)  # fmt: skip
def test_an_untrained_model_is_that_of_its_seed(change: Callable[[nn.Module], None], cause: str | None) -> None:
    found = changed(change)
    assert (max(found, key=lambda c: c.weight).cause if found else None) == cause


def test_outputs_and_settings_tell_causes() -> None:
    (found,) = forward_difference("head", form_of(values() * 3, values()), of_logits=True)
    assert found.cause == "temperature"
    (found,) = forward_difference("tower", form_of(values() * 3, values()), of_logits=False)
    assert found.cause == "forward_differs"
    assert form_of(values().relu(), values()).text == "its values are cut off at 0"
    for change, cause, place in (
        (1e-6, "detached_tower", "tower"), (0.0, "detached_tower", "tower"), (0.0, "feature_ignored", "embeddings.tables.width_4"),
        (0.5, "forward_differs", "tower"),
    ):  # fmt: skip
        (found,) = forward_difference(place, form_of(values() * change, values()), of_logits=False)
        assert (found.cause, found.location) == (cause, place)
    declared = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "maximize": False}
    assert not list(setting_differences("w", "AdamW", dict(declared), declared))
    for change, cause in (
        ({"lr": 0.02}, "huge_lr"), ({"lr": 0.0}, "tiny_lr"), ({"betas": (0.9, 0.9)}, "optimizer_settings"),
        ({"weight_decay": 1.0}, "huge_weight_decay"), ({"maximize": True}, "gradient_reversed"), ({"eps": 1.0}, "optimizer_settings"),
    ):  # fmt: skip
        assert [c.cause for c in setting_differences("w", "AdamW", declared | change, declared)] == [cause]


@given(st.integers(0, 1000), st.floats(1e-4, 0.5), st.floats(0, 0.1))
def test_the_oracle_of_adamw_follows_it(seed: int, rate: float, decay: float) -> None:
    torch.manual_seed(seed)
    weight = nn.Parameter(torch.randn(5, 3))
    optimizer = torch.optim.AdamW([weight], lr=rate, weight_decay=decay)
    for _ in range(3):
        before = weight.detach().clone()
        state = {k: v.clone() for k, v in optimizer.state.get(weight, {}).items()}
        weight.grad = torch.randn(5, 3)
        optimizer.step()
        given = UpdateInput(before=before, gradient=weight.grad, state=state, settings=optimizer.param_groups[0])
        assert not is_apart(weight, adamw_update(given), 1e-6)
        assert not list(state_differences({"w": optimizer.state[weight]}, {"w": adamw_state(given)}, "now", ROUNDING))


def test_the_oracle_of_row_wise_adagrad_follows_it() -> None:
    torch.manual_seed(1)
    table = nn.Embedding(20, 4, sparse=True)
    optimizer = RowwiseAdagrad(table.parameters(), 0.1, 0.01)
    for seed in range(3):
        rows = torch.unique(torch.randint(0, 20, (9,), generator=torch.Generator().manual_seed(seed)))
        before = table.weight.detach()[rows].clone()
        state = {"accumulated": optimizer.state[table.weight]["accumulated"][rows].clone()}
        optimizer.zero_grad()
        (table(rows) ** 2).sum().backward()
        gradient = table.weight.grad.coalesce().values()
        optimizer.step()
        given = UpdateInput(before=before, gradient=gradient, state=state, settings=optimizer.param_groups[0])
        after = rowwise_adagrad_update(given)
        kept = optimizer.state[table.weight]["accumulated"][rows]
        assert not is_apart(kept, rowwise_adagrad_state(given)["accumulated"], 1e-5)
        assert not is_apart(table.weight.detach()[rows] - before, after - before, 1e-3)
