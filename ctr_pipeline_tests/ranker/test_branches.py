"""Branches on shared inputs: their logits, the fusion, what is stopped, and what a model without them knows of it."""

from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.testing import (
    TrainingSetup,
    assert_passed,
    check_cross_sample,
    check_finite_differences,
    check_weights_move,
)
from ctr_pipeline.ranker import Ranker, RankerError, build_ranker, load_ranker, save_ranker
from ctr_pipeline.ranker.branches import FusedOutputs, weak_branches
from ctr_pipeline.spec.branches import Fusion
from ctr_pipeline.spec.model import Model

BRANCHES = [
    {"name": "deep", "hidden": [16, 8]},
    {"name": "crossed", "hidden": [], "interactions": ["cross"]},
    {"name": "both", "hidden": [12], "interactions": [{"kind": "mask_net", "blocks": 2, "width": 5}, "cross"]},
]
KINDS = ("average", "gated", "logistic")


def model_of(kind: str = "average", branches: list | None = None, **fusion: object) -> Model:
    content = {"embedding_dim": 4, "branches": branches or BRANCHES, "fusion": {"kind": kind, **fusion}}
    return Model.model_validate(content)


def noisy(ranker: Ranker) -> Ranker:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return ranker


def head_of(ranker: Ranker) -> FusedOutputs:
    assert isinstance(ranker.head, FusedOutputs)
    return ranker.head


def complete(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.nan_to_num(batch[0]), batch[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_logits_are_those_of_the_formula(layout: Layout, batch: tuple[Tensor, Tensor], kind: str) -> None:
    ranker = noisy(build_ranker(layout, model_of(kind), 1)).double().eval()
    head = head_of(ranker)
    inputs = ranker.encode(batch[0].double(), batch[1])
    outputs = {name: module(inputs.numbers, inputs.fields) for name, module in ranker.interactions.items()}
    assert list(outputs) == ["crossed_cross_0", "both_mask_net_0", "both_cross_1"]
    towers = {name: tower(inputs.numbers, inputs.embedded) for name, tower in ranker.tower.items()}
    columns = [towers["deep"], towers["both"], *outputs.values()]
    hidden = torch.cat(columns, dim=1)
    torch.testing.assert_close(ranker.hidden(inputs), hidden)
    of_deep, of_both, of_crossed, *of_more = head.weight.split([part.shape[1] for part in columns], dim=1)
    own = [
        towers["deep"] @ of_deep.T,
        outputs["crossed_cross_0"] @ of_crossed.T,
        towers["both"] @ of_both.T
        + sum(
            outputs[name] @ weight.T for name, weight in zip(("both_mask_net_0", "both_cross_1"), of_more, strict=True)
        ),
    ]
    if kind == "average":
        fused = sum(own) / 3
    elif kind == "gated":
        assert head.gate is not None
        shares = torch.softmax(hidden @ head.gate.weight.T + head.gate.bias, dim=1)
        fused = sum(shares[:, k : k + 1] * own[k] for k in range(3))
    else:
        assert head.mixing is not None
        fused = sum(head.mixing[k] * own[k] for k in range(3)) / 3
    torch.testing.assert_close(head(hidden), fused + head.bias)
    torch.testing.assert_close(head.own(hidden), torch.stack(own, dim=1) + head.bias)
    alone = ranker.branch_logits(hidden, inputs)
    assert [value.shape for value in alone] == [(9, 3)] * 3


def test_new_fusions_are_the_average(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    found = [build_ranker(layout, model_of(kind), 1).eval()(*batch) for kind in KINDS]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_each_row_leaves_branches_out_in_training_but_never_all_of_them() -> None:
    head = FusedOutputs([1, 1], [0, 1], 2, 1, Fusion(branch_dropout=0.5))
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 3.0]]))
        head.bias.zero_()
    torch.manual_seed(0)
    found = head.train()(torch.ones(4000, 2))[:, 0]
    shares = {value: float((found == value).float().mean()) for value in (1.0, 2.0, 3.0)}
    # Alone with probability ¼ each; both of them with ¼, and where both were left out.
    assert shares[1.0] == pytest.approx(0.25, abs=0.03)
    assert shares[3.0] == pytest.approx(0.25, abs=0.03)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert torch.equal(head.eval()(torch.ones(5, 2)), torch.full((5, 1), 2.0))


def test_what_belongs_to_no_branch_is_read_by_each() -> None:
    head = FusedOutputs([1, 2, 1], [1, 0, 2], 2, 1, Fusion(kind="gated")).eval()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 10.0]]))
        head.bias.fill_(0.5)
    hidden = torch.ones(4, 4)
    assert head.own(hidden)[0, :, 0].tolist() == [15.5, 11.5]
    assert head(hidden)[:, 0].tolist() == [13.5] * 4
    head.leave_out(0)
    assert head(hidden)[:, 0].tolist() == [11.5] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_that_is_left_out_has_no_influence_and_no_gradient(
    layout: Layout, batch: tuple[Tensor, Tensor], kind: str, tmp_path: Path
) -> None:
    ranker = noisy(build_ranker(layout, model_of(kind, branch_dropout=0.0), 1))
    head = head_of(ranker)
    before = ranker.eval()(*batch)
    head.leave_out(1)
    assert head.going_on() == [True, False, True]
    without = ranker(*batch)
    assert not torch.equal(without, before)
    ranker.train()(*batch).sum().backward()
    crossed = [p for name, p in ranker.named_parameters() if name.startswith("interactions.crossed_")]
    assert crossed
    assert all(p.grad is None or not bool(p.grad.any()) for p in crossed)
    assert bool(ranker.get_parameter("tower.deep.0.linear.weight").grad.any())
    ranker.eval()
    with torch.no_grad():
        for parameter in crossed:
            parameter.mul_(7)
    torch.testing.assert_close(ranker(*batch), without)
    # What is left out is part of the stored model.
    save_ranker(tmp_path / "model.pt", ranker, layout)
    loaded = load_ranker(tmp_path / "model.pt", layout, model_of(kind, branch_dropout=0.0))
    assert torch.equal(loaded(*batch), ranker(*batch))
    assert head_of(loaded).going_on() == [True, False, True]


@pytest.mark.parametrize(
    ("entropies", "going_on", "margin", "expected"),
    [
        ([0.80, 0.82, 0.805], [True, True, True], 0.01, [1]),
        ([0.80, 0.82, 0.85], [False, True, True], 0.01, [2]),
        ([0.80, 0.81, None], [True, True, True], 0.02, []),
        ([float("nan"), 0.81, 0.8], [True, True, True], 0.02, [0]),
        ([None, None], [True, True], 0.0, []),
    ],
)
def test_weak_branches_are_those_beyond_the_margin(entropies, going_on, margin, expected) -> None:
    assert weak_branches(entropies, going_on, margin) == expected


@pytest.mark.parametrize(("kind", "dropout"), product(KINDS, (0.0, 0.3)))
def test_gradients_and_samples(layout: Layout, batch: tuple[Tensor, Tensor], kind: str, dropout: float) -> None:
    ranker = noisy(build_ranker(layout, model_of(kind, branch_dropout=dropout), 1))
    labels = (torch.arange(27).reshape(9, 3) % 2).double()
    setup = TrainingSetup(
        model=ranker,
        batch=(*complete(batch), labels),
        forward=lambda model, own: model(own[0], own[1]),
        loss=lambda z, own: nn.functional.binary_cross_entropy_with_logits(z, own[2].to(z.dtype)),
        optimizers=[torch.optim.Adagrad(ranker.parameters(), lr=0.05)],
    )
    assert_passed(check_finite_differences(setup), check_cross_sample(setup), check_weights_move(setup))


def test_branches_draw_their_weights_whichever_others_there_are(layout: Layout) -> None:
    one, other = (build_ranker(layout, model_of(branches=chosen), 4) for chosen in (BRANCHES, BRANCHES[::-1]))
    states = one.state_dict(), other.state_dict()
    for name, value in states[0].items():
        if not name.startswith("head."):
            assert torch.equal(value, states[1][name]), name


def test_branches_of_interactions_alone_have_no_hidden_layers(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    branches = [{"name": name, "hidden": [], "interactions": [name]} for name in ("cross", "mask_net")]
    ranker = build_ranker(layout, model_of(branches=branches), 1).eval()
    assert ranker.tower.linears == []
    assert ranker(*batch).shape == (9, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_graph_computes_the_same(
    layout: Layout, batch: tuple[Tensor, Tensor], kind: str, tmp_path: Path
) -> None:
    ranker = noisy(build_ranker(layout, model_of(kind), 1)).eval()
    head_of(ranker).leave_out(0)
    rows = torch.export.Dim("rows", min=1)
    path = tmp_path / "model.onnx"
    dynamic = ({0: rows}, {0: rows})
    torch.onnx.export(ranker, batch, path, dynamo=True, opset_version=20, dynamic_shapes=dynamic, verbose=False)
    session = onnxruntime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    for count in (1, 9):
        numeric, ids = batch[0][:count], batch[1][:count]
        (found,) = session.run(None, dict(zip(names, (numeric.numpy(), ids.numpy()), strict=True)))
        np.testing.assert_allclose(found, ranker(numeric, ids).detach().numpy(), atol=1e-5)


def test_a_model_without_branches_knows_nothing_of_them(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    plain = Model(embedding_dim=4, hidden=[8])
    assert not {"branches", "fusion"} & set(plain.model_dump())
    ranker = build_ranker(layout, plain, 0).eval()
    assert type(ranker.head) is nn.Linear
    inputs = ranker.encode(*batch)
    assert ranker.branch_logits(ranker.hidden(inputs), inputs) == []


def test_a_branch_whose_module_does_not_suit_is_refused(layout: Layout) -> None:
    branches = [BRANCHES[0], {"name": "pairs", "hidden": [], "interactions": ["factorisation_machine"]}]
    with pytest.raises(RankerError, match="they differ: 2 for device; 4 for ad, query"):
        build_ranker(layout, model_of(branches=branches), 0)


def test_a_branch_may_be_called_as_anything_in_torch(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    names = ["half", "owners", "values", "half_", "out_width", "training"]
    plain = model_of(branches=[{"name": f"b{at}", "hidden": [4]} for at in range(len(names))])
    model = model_of(branches=[{"name": name, "hidden": [4]} for name in names])
    ranker = noisy(build_ranker(layout, model, 1)).eval()
    assert ranker.branches == tuple(names)
    assert ranker(*batch).shape == (9, 3)
    assert len(ranker.state_dict()) == len(build_ranker(layout, plain, 1).state_dict())
    for path, _ in ranker.named_modules():
        ranker.get_submodule(path)
