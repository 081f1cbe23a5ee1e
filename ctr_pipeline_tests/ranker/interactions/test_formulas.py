"""Each interaction against its formula, written again in plain NumPy, one row after the other."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctr_pipeline.ranker import RankerError
from ctr_pipeline.ranker.interactions import build_interaction
from ctr_pipeline.ranker.shapes import FieldGroup, InputShape
from ctr_pipeline.spec.interactions import (
    Cross,
    CrossMixture,
    FeatureGates,
    FieldAttention,
    InteractionSection,
    MaskNet,
    ResidualPerceptron,
)
from ctr_pipeline_tests.every_module import SECTIONS

Array = NDArray[np.float64]
State = dict[str, Array]
# Two widths; the third and fourth number say whether others are missing.
SHAPE = InputShape(7, (FieldGroup(2, ("device", "hour")), FieldGroup(4, ("ad", "query", "site"))), flags=(2, 4))
EQUAL = InputShape(7, (FieldGroup(4, ("ad", "query", "site")),), flags=(2, 4))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softmax(x: Array) -> Array:
    odds = np.exp(x - x.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def norm(x: Array, weight: Array | float = 1.0, bias: Array | float = 0.0) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def linear(state: State, name: str, x: Array) -> Array:
    return state[f"{name}.weight"] @ x + state.get(f"{name}.bias", np.zeros(1))


def vectors(state: State, mode: str, fields: list[Array]) -> list[list[Array]]:
    """The embeddings of one row, normalised, group by group."""
    if mode == "none":
        return [list(group) for group in fields]
    if mode == "field":
        return [
            [
                norm(v, state[f"inputs.each.{g}.weight"][f], state[f"inputs.each.{g}.bias"][f])
                for f, v in enumerate(group)
            ]
            for g, group in enumerate(fields)
        ]
    flat = norm(
        np.concatenate([v for group in fields for v in group]), state["inputs.whole.weight"], state["inputs.whole.bias"]
    )
    found, at = [], 0
    for group in fields:
        own = []
        for v in group:
            own.append(flat[at : at + len(v)])
            at += len(v)
        found.append(own)
    return found


def bounded(mode: str, numbers: Array) -> Array:
    own = np.concatenate([numbers[:2], numbers[4:]])
    return own if mode == "none" else 3 * np.tanh(own / 3)


def joined(state: State, mode: str, numbers: Array, fields: list[Array]) -> Array:
    parts = [v for group in vectors(state, mode, fields) for v in group]
    return np.concatenate([bounded(mode, numbers), *parts])


def cross(state: State, section: Cross, numbers: Array, fields: list[Array]) -> Array:
    first = x = joined(state, section.normalisation, numbers, fields)
    for layer in range(section.layers):
        x = first * linear(state, f"crosses.{layer}", x) + x
    return x


def cross_mixture(state: State, section: CrossMixture, numbers: Array, fields: list[Array]) -> Array:
    first = x = joined(state, section.normalisation, numbers, fields)
    for layer in range(section.layers):
        at, rank = f"crosses.{layer}.", section.rank
        gates = softmax(state[at + "gate.weight"] @ x)
        mixed = np.zeros_like(x)
        for expert in range(section.experts):
            own = slice(expert * rank, (expert + 1) * rank)
            low = np.tanh(state[at + "down.weight"][own] @ x)
            low = np.tanh(low @ state[at + "within"][expert])
            mixed += gates[expert] * first * (state[at + "up.weight"][:, own] @ low + state[at + "up.bias"])
        x = mixed + x
    return x


def mask_net(state: State, section: MaskNet, numbers: Array, fields: list[Array]) -> Array:
    plain = joined(state, "none", numbers, fields)
    inputs = hidden = joined(state, section.normalisation, numbers, fields)
    outputs = []
    for block in range(section.blocks):
        at = f"blocks.{block}."
        mask = linear(state, at + "projection", relu(linear(state, at + "aggregation", plain)))
        read = hidden if section.arrangement == "serial" else inputs
        hidden = relu(
            norm(state[at + "hidden.weight"] @ (mask * read), state[at + "norm.weight"], state[at + "norm.bias"])
        )
        outputs.append(hidden)
    return hidden if section.arrangement == "serial" else np.concatenate(outputs)


def field_attention(state: State, section: FieldAttention, numbers: Array, fields: list[Array]) -> Array:
    tokens = [
        state[f"of_embeddings.{group}.weight"] @ v
        for group, own in enumerate(vectors(state, section.normalisation, fields))
        for v in own
    ]
    tokens.append(linear(state, "of_numbers", bounded(section.normalisation, numbers)))
    each, depth = np.stack(tokens), section.width // section.heads
    for layer in range(section.layers):
        of_queries, of_keys, of_values, of_residual = np.split(state[f"layers.{layer}.projections.weight"], 4)
        attended = np.zeros_like(each)
        for head in range(section.heads):
            own = slice(head * depth, (head + 1) * depth)
            queries, keys, values = (each @ weight[own].T for weight in (of_queries, of_keys, of_values))
            for field in range(len(each)):
                attended[field, own] = softmax(keys @ queries[field] / np.sqrt(depth)) @ values
        each = relu(attended + each @ of_residual.T)
    return each.reshape(-1)


def feature_gates(state: State, section: FeatureGates, numbers: Array, fields: list[Array]) -> Array:
    parts = vectors(state, section.normalisation, fields)
    own = bounded(section.normalisation, numbers)
    inputs = np.concatenate([own, *(v for group in parts for v in group)])
    by_name = dict(zip(("device", "hour", "ad", "query", "site"), [v for group in parts for v in group], strict=True))
    context = np.concatenate([by_name[name] for name in section.context]) if section.context else inputs
    gates = 2 / (1 + np.exp(-linear(state, "gates", relu(linear(state, "aggregation", context)))))
    if section.by == "field":
        pieces = [own, *by_name.values()]
        gates = np.concatenate([np.full(len(piece), gate) for gate, piece in zip(gates, pieces, strict=True)])
    return gates * inputs


def residual_perceptron(state: State, section: ResidualPerceptron, numbers: Array, fields: list[Array]) -> Array:
    h = linear(state, "first", joined(state, section.normalisation, numbers, fields))
    for block in range(section.blocks):
        at = f"blocks.{block}."
        read = norm(h, state[at + "norm.weight"], state[at + "norm.bias"])
        h = h + linear(state, at + "second", relu(linear(state, at + "first", read)))
    return relu(norm(h, state["norm.weight"], state["norm.bias"]))


def factorisation_machine(_state: State, _section: InteractionSection, _numbers: Array, fields: list[Array]) -> Array:
    (own,) = fields
    return np.array([sum(own[i] @ own[j] for i in range(len(own)) for j in range(i))])


FORMULAS: dict[str, Callable[..., Array]] = {
    formula.__name__: formula
    for formula in (
        cross, cross_mixture, mask_net, field_attention, feature_gates, residual_perceptron, factorisation_machine,
    )
}  # fmt: skip
MORE: dict[str, InteractionSection] = {
    "three crosses": Cross(layers=3),
    "one expert": CrossMixture(experts=1, rank=3, layers=1),
    "two serial blocks": MaskNet(arrangement="serial", blocks=2, width=5, mask_width=3, normalisation="field"),
    "three heads": FieldAttention(heads=3, width=6, layers=1),
    "gates by a device": FeatureGates(context=["device", "site"], by="field", hidden=[]),
}
CASES = {name: section for name, section in (SECTIONS | MORE).items() if section.kind in FORMULAS}


def with_stack(state: State, section: InteractionSection, output: Array) -> Array:
    """The hidden layers that read a module's output."""
    for layer in range(len(getattr(section, "hidden", []))):
        at = f"output.{layer + 1}."
        output = relu(norm(linear(state, at + "linear", output), state[at + "norm.weight"], state[at + "norm.bias"]))
    return output


def drawn(module: nn.Module) -> State:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)
    return {name: value.numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("section", CASES.values(), ids=list(CASES))
def test_a_module_computes_its_formula(section: InteractionSection) -> None:
    shape = EQUAL if section.kind == "factorisation_machine" else SHAPE
    module = build_interaction(section, shape).double().eval()
    state = drawn(module)
    generator = torch.Generator().manual_seed(8)

    def some(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    numbers, fields = 2 * some(6, 7), tuple(some(6, len(group.columns), group.width) for group in shape.groups)
    with torch.no_grad():
        found = module(numbers, fields).numpy()
    assert found.shape[1] == module.out_width
    for row in range(6):
        own: list[Any] = [group[row].numpy() for group in fields]
        expected = FORMULAS[section.kind](state, section, numbers[row].numpy(), own)
        np.testing.assert_allclose(found[row], with_stack(state, section, expected), rtol=1e-9, atol=1e-11)


def test_new_gates_and_blocks_change_nothing() -> None:
    numbers = torch.randn(3, 7)
    fields = tuple(torch.randn(3, len(group.columns), group.width) for group in SHAPE.groups)
    gates = build_interaction(FeatureGates(hidden=[]), SHAPE)
    assert torch.equal(gates(numbers, fields), gates.inputs(numbers, fields))
    one, four = (build_interaction(ResidualPerceptron(blocks=blocks), SHAPE).eval() for blocks in (1, 4))
    four.first.load_state_dict(one.first.state_dict())
    assert torch.equal(one(numbers, fields), four(numbers, fields))


@pytest.mark.parametrize(
    ("section", "shape", "message"),
    [
        (Cross(), InputShape(0, ()), "cross has no inputs: declare features"),
        (Cross(normalisation="field"), InputShape(2, (FieldGroup(1, ("ad",)),)), "the embedding of ad has width 1"),
        (FieldAttention(), InputShape(0, (FieldGroup(4, ("ad",)),)), "there is only one: declare another feature"),
        (FeatureGates(context=["adv"]), SHAPE, "`context` names adv; embedded features: device, hour, ad, query, site"),
    ],
)
def test_unsuitable_inputs_are_refused(section: InteractionSection, shape: InputShape, message: str) -> None:
    with pytest.raises(RankerError, match=message):
        build_interaction(section, shape)


@pytest.mark.parametrize("section", [Cross(), MaskNet(), FieldAttention(), FeatureGates(), ResidualPerceptron()])
@pytest.mark.parametrize("shape", [InputShape(4, ()), InputShape(0, (FieldGroup(4, ("ad", "site")),))])
def test_numbers_or_embeddings_alone_will_do(section: InteractionSection, shape: InputShape) -> None:
    if isinstance(section, FieldAttention) and not shape.groups:
        return
    module = build_interaction(section, shape)
    fields = tuple(torch.randn(3, len(group.columns), group.width) for group in shape.groups)
    assert module(torch.randn(3, shape.numbers), fields).shape == (3, module.out_width)
