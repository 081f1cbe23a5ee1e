"""Every registered architecture of the heads: against NumPy, finite differences, ONNX, and by what may learn from what."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker import Ranker, RankerError, build_ranker, load_ranker, save_ranker
from ctr_pipeline.ranker.heads import HeadShape, build_head, register_head
from ctr_pipeline.spec.heads import HEADS, HeadSection
from ctr_pipeline.spec.model import Model
from ctr_pipeline_tests.ranker.heads.numpy_heads import ORACLES

VARIANTS: dict[str, dict] = {
    "shared_bottom": {"kind": "shared_bottom", "gate_on": "parent"},
    "task_towers": {"kind": "task_towers", "tower": [6, 5]},
    "mmoe": {"kind": "mmoe", "experts": 3, "expert": [6, 4], "tower": [5]},
    "mmoe without towers": {"kind": "mmoe", "experts": 2, "expert": [6]},
    "ple": {"kind": "ple", "levels": 2, "shared_experts": 2, "expert": [6], "tower": [5]},
    "ple of one level": {"kind": "ple", "task_experts": 2, "expert": [6, 5]},
    "aitm": {"kind": "aitm", "tower": [6, 5]},
}
CASES = [(name, gate) for name in VARIANTS for gate in (None, "parent") if name != "shared_bottom" or gate]


def a_model(name: str, gate: str | None, **changes: Any) -> Model:
    section = {**VARIANTS[name], **({"gate_on": gate} if gate else {})}
    return Model.model_validate({"embedding_dim": 4, "hidden": [8], "multi_task": section, **changes})


def lively(ranker: Ranker) -> Ranker:
    """Gates and last layers start at or near 0: a test of what they do needs others."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            if "gate" in name or name == "head.weight":
                parameter.normal_(0.0, 0.7, generator=generator)
    return ranker


def test_all_kinds_of_this_project_are_tried() -> None:
    own = {kind for kind, section in HEADS.sections.items() if section.__module__.startswith("ctr_pipeline.")}
    assert {section["kind"] for section in VARIANTS.values()} == own


@pytest.mark.parametrize(("name", "gate"), CASES)
def test_it_computes_its_formula(layout: Layout, name: str, gate: str | None) -> None:
    model = a_model(name, gate)
    # Two branches: click → cart and click → call, so that a parent is not the task before.
    tasks = ("click", "cart", "call")
    shape = HeadShape(7, tasks, (-1, 0, 0), (False,) * 3, model)
    torch.manual_seed(2)
    assert model.multi_task is not None
    head = build_head(model.multi_task, shape).double().eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0.0, 0.6)
    hidden = np.random.default_rng(1).normal(size=(5, 7))
    weights = {key: value.numpy() for key, value in head.state_dict().items()}
    expected = ORACLES[name.split()[0]](weights, hidden, shape.parents, model.multi_task)
    found = head(torch.from_numpy(hidden)).detach().numpy()
    assert found.shape == (5, 3, head.out_width)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "gate", "heads"), [(*case, ("independent", "chain")[place % 2]) for place, case in enumerate(CASES)]
)
def test_gradient_by_finite_differences(layout: Layout, name: str, gate: str | None, heads: str) -> None:
    """Along each tensor's own gradient; a step that flips a ReLU is no test of the gradient and is left out."""
    ranker = lively(build_ranker(layout, a_model(name, gate, heads=heads), 2)).double().eval()
    generator = torch.Generator().manual_seed(1)
    numeric = torch.randn((40, 2), generator=generator, dtype=torch.float64)
    ids = torch.stack([torch.randint(0, column.rows, (40,), generator=generator) for column in layout.ids], dim=1)
    weights = torch.randn((40, 3), generator=generator, dtype=torch.float64)
    signs: list[Tensor] = []
    for module in ranker.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda *call: signs.append(call[2].detach() > 0))

    def evaluate() -> tuple[Tensor, Tensor]:
        signs.clear()
        value = (ranker(numeric, ids) * weights).mean()
        return value, torch.cat([sign.flatten() for sign in signs])

    value, base = evaluate()
    value.backward()
    checked = []
    for path, parameter in ranker.named_parameters():
        if not path.startswith(("multi_task", "head")):
            continue
        assert parameter.grad is not None, path
        expected = float(parameter.grad.norm())
        assert expected > 0, path
        direction, errors = parameter.grad / expected, []
        for epsilon in (1e-3, 1e-4, 1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=epsilon)
                above, signs_above = evaluate()
                parameter.sub_(direction, alpha=2 * epsilon)
                below, signs_below = evaluate()
                parameter.add_(direction, alpha=epsilon)
            if torch.equal(signs_above, base) and torch.equal(signs_below, base):
                errors.append(abs(float(above - below) / (2 * epsilon) - expected) / expected)
        if errors:
            checked.append(path)
            assert min(errors) < 1e-6, path
    assert len(checked) >= 0.8 * sum(path.startswith(("multi_task", "head")) for path, _ in ranker.named_parameters())


@pytest.mark.parametrize(("name", "gate"), CASES)
def test_a_row_scores_the_same_alone(layout: Layout, batch: tuple[Tensor, Tensor], name: str, gate: str | None) -> None:
    ranker = lively(build_ranker(layout, a_model(name, gate), 0)).eval()
    numeric, ids = batch
    together = ranker(numeric, ids)
    alone = torch.cat([ranker(numeric[i : i + 1], ids[i : i + 1]) for i in range(len(ids))])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)


NIGHTLY = [pytest.param(name, [8], marks=pytest.mark.nightly) for name in ("shared_bottom", "task_towers", "mmoe")]


@pytest.mark.parametrize(("name", "hidden"), [("ple", []), ("aitm", [8]), *NIGHTLY])
def test_it_exports_with_a_dynamic_batch(
    layout: Layout, batch: tuple[Tensor, Tensor], name: str, hidden: list[int], tmp_path: Path
) -> None:
    ranker = lively(build_ranker(layout, a_model(name, "parent", hidden=hidden), 0)).eval()
    size = torch.export.Dim("batch", min=1)
    path, dynamic = tmp_path / "model.onnx", ({0: size}, {0: size})
    torch.onnx.export(ranker, batch, path, dynamo=True, opset_version=20, dynamic_shapes=dynamic, verbose=False)
    session = onnxruntime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    for rows in (1, 9):
        numeric, ids = batch[0][:rows], batch[1][:rows]
        (found,) = session.run(None, dict(zip(names, (numeric.numpy(), ids.numpy()), strict=True)))
        np.testing.assert_allclose(found, ranker(numeric, ids).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_an_untrained_model_predicts_each_tasks_rate(layout: Layout, batch: tuple[Tensor, Tensor], name: str) -> None:
    rates = [0.2, 0.05, 0.01]
    ranker = build_ranker(layout, a_model(name, "parent"), 0).eval()
    ranker.start_from_rates(rates)
    found = torch.sigmoid(ranker(*batch)).detach().mean(dim=0).tolist()
    assert found == pytest.approx(rates, rel=0.25)


def test_gates_on_the_parent_change_nothing_at_first(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    plain = build_ranker(layout, Model(embedding_dim=4, hidden=[8]), 4).eval()
    gated = build_ranker(layout, a_model("shared_bottom", "parent"), 4).eval()
    torch.testing.assert_close(gated(*batch), plain(*batch), atol=1e-6, rtol=0)
    with torch.no_grad():
        gated.get_parameter("multi_task.gates.0.weight").fill_(0.5)
    moved = (gated(*batch) - plain(*batch)).abs().max(dim=0).values
    assert moved[0] < 1e-6
    assert moved[1] > 1e-4


def learnt_from(ranker: Ranker, batch: tuple[Tensor, Tensor], task: int) -> set[str]:
    """Names of the parameters that the logit of a task moves."""
    ranker.zero_grad()
    ranker(*batch)[:, task].sum().backward()
    dense = {
        name: p.grad.to_dense() if p.grad.is_sparse else p.grad
        for name, p in ranker.named_parameters()
        if p.grad is not None
    }
    return {name for name, gradient in dense.items() if float(gradient.abs().max()) > 0}


@pytest.mark.parametrize("heads", ["chain", "independent"])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_stopped_task_reaches_its_own_modules_alone(
    layout: Layout, batch: tuple[Tensor, Tensor], name: str, heads: str
) -> None:
    section = {**VARIANTS[name], "gate_on": "parent", "stop_gradient": ["cart"]}
    model = Model.model_validate({"embedding_dim": 4, "hidden": [8], "multi_task": section, "heads": heads})
    ranker = lively(build_ranker(layout, model, 0)).eval()
    free = build_ranker(layout, a_model(name, "parent", heads=heads), 0).eval()
    free.load_state_dict(ranker.state_dict())
    assert torch.equal(free(*batch), ranker(*batch))
    assert ranker.multi_task is not None
    own = {id(p) for p in list(ranker.multi_task.own)[1].parameters()}
    owned = {name for name, p in ranker.named_parameters() if id(p) in own}
    found = learnt_from(ranker, batch, 1)
    assert found <= owned | {"head.weight", "head.bias", "wide.rows.table.weight", "wide.numbers.weight"}
    assert owned <= found
    shared = {"tower.0.linear.weight", "embeddings.tables.width_4.table.weight"}
    assert shared <= learnt_from(free, batch, 1)
    # Click is not stopped. Checkout's parent in the chain is cart, whose gradient is its own.
    assert shared <= learnt_from(ranker, batch, 0)
    assert shared <= learnt_from(ranker, batch, 2)
    assert learnt_from(ranker, batch, 0) == learnt_from(free, batch, 0)


@pytest.mark.parametrize("heads", ["chain", "independent"])
def test_a_stopped_task_leaves_its_parents_logit_alone(
    layout: Layout, batch: tuple[Tensor, Tensor], heads: str
) -> None:
    section = {"kind": "shared_bottom", "stop_gradient": ["cart"]}
    model = Model.model_validate({"hidden": [8], "multi_task": section, "heads": heads})
    ranker = build_ranker(layout, model, 0).eval()
    ranker(*batch)[:, 1].sum().backward()
    gradient = ranker.get_parameter("head.weight").grad
    assert gradient is not None
    assert gradient.abs().amax(dim=1).gt(0).tolist() == [False, True, False]


def test_the_shared_bottom_by_itself_is_the_ranker_as_it_was(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    plain = build_ranker(layout, Model(embedding_dim=4, hidden=[8]), 4).eval()
    named = build_ranker(
        layout, Model.model_validate({"embedding_dim": 4, "hidden": [8], "multi_task": "shared_bottom"}), 4
    )
    assert list(named.state_dict()) == list(plain.state_dict())
    assert torch.equal(named.eval()(*batch), plain(*batch))
    assert type(named.head) is nn.Linear
    # Neither do a job's identity, a spec's hash and a bundle know of it.
    assert "multi_task" not in Model().model_dump()


@pytest.mark.parametrize("name", list(VARIANTS))
def test_it_leaves_the_weights_of_the_others_as_they_were(layout: Layout, name: str) -> None:
    plain = build_ranker(layout, Model(embedding_dim=4, hidden=[8]), 0).state_dict()
    state = build_ranker(layout, a_model(name, "parent"), 0).state_dict()
    assert all(torch.equal(state[key], plain[key]) for key in plain if not key.startswith("head."))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_no_parameter_is_stored_twice(layout: Layout, name: str) -> None:
    ranker = build_ranker(layout, a_model(name, "parent"), 0)
    assert {name for name, _ in ranker.named_parameters()} <= set(ranker.state_dict())
    assert len(list(ranker.named_parameters())) == len(list(ranker.named_parameters(remove_duplicate=False)))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_values_that_training_never_missed_have_no_influence(layout: Layout, name: str) -> None:
    """Without hidden layers the architecture reads the inputs: its first layers start at 0 for flags of missing values."""
    ranker = lively(build_ranker(layout, a_model(name, "parent", hidden=[], wide=False), 0))
    flags = ranker.numeric.flags
    assert ranker.multi_task is not None
    readers = list(ranker.multi_task.readers) or [ranker.head]
    fresh = build_ranker(layout, a_model(name, "parent", hidden=[], wide=False), 0)
    assert fresh.multi_task is not None
    for linear in list(fresh.multi_task.readers) or [fresh.head]:
        assert linear.in_features == ranker.shape.numbers + ranker.shape.embedded_width
        assert torch.count_nonzero(linear.weight[:, flags]) == 0
    assert len(readers) == len(list(fresh.multi_task.readers) or [fresh.head])


def test_stored_weights_come_back(layout: Layout, batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    model = a_model("ple", "parent")
    ranker = build_ranker(layout, model, 1)
    save_ranker(tmp_path / "model.pt", ranker, layout)
    again = Model.model_validate_json(model.model_dump_json())
    assert torch.equal(load_ranker(tmp_path / "model.pt", layout, again)(*batch), ranker.eval()(*batch))
    with pytest.raises(RankerError, match="does not fit the model section of the spec"):
        load_ranker(tmp_path / "model.pt", layout, a_model("mmoe", None))


def test_one_task_needs_no_funnel(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    single = replace(layout, tasks=("click",), parents=(-1,))
    for name in VARIANTS:
        ranker = build_ranker(single, a_model(name, "parent"), 1)
        assert ranker(*batch).shape == (9, 1)


class Doubled(HeadSection):
    kind: Literal["doubled_for_test"] = "doubled_for_test"
    factor: float = 2.0


class DoubledUnits(nn.Module):
    def __init__(self, shape: HeadShape, section: Doubled) -> None:
        super().__init__()
        self.out_width, self.factor, self.readers = shape.width, section.factor, []
        self.own = nn.ModuleList(nn.Identity() for _ in shape.tasks)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.stack([self.factor * hidden] * len(self.own), dim=1)


register_head("doubled_for_test", DoubledUnits, Doubled)
register_head("no_module_for_test", lambda _: 3)  # type: ignore[arg-type, return-value]


def test_another_package_adds_one(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    plain = build_ranker(layout, Model(hidden=[8], wide=False, heads="independent"), 0).eval()
    section = {"kind": "doubled_for_test", "factor": 3.0}
    model = Model.model_validate({"hidden": [8], "wide": False, "heads": "independent", "multi_task": section})
    ranker = build_ranker(layout, model, 0).eval()
    torch.testing.assert_close(ranker(*batch), 3 * plain(*batch))
    with pytest.raises(
        RankerError, match=r"'no_module_for_test': a torch\.nn\.Module with an `out_width`.*found a int"
    ):
        build_ranker(layout, Model.model_validate({"multi_task": "no_module_for_test"}), 0)


def entropy_of(shares: NDArray[np.float64]) -> float:
    return float(-(shares * np.log(shares)).sum())


def test_gates_of_experts_start_with_equal_shares(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    ranker = build_ranker(layout, a_model("mmoe", None), 0).eval()
    assert ranker.multi_task is not None
    scores = ranker.multi_task.own[0]["gate"](torch.randn(4, 8))
    shares = torch.softmax(scores, dim=1).detach().double().numpy()
    assert entropy_of(shares[0]) == pytest.approx(math.log(3))
