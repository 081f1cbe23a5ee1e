"""What every module over events owes: masks, independence of rows and keys, its formula, and its gradient."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctr_pipeline.ranker.sequence import build_sequence
from ctr_pipeline.ranker.sequence.event_encoding import OLDEST
from ctr_pipeline.ranker.sequence.target_attention import ActivationUnit
from ctr_pipeline.ranker.sequence.transformer import EventTransformer
from ctr_pipeline.ranker.shapes import Events, EventShape
from ctr_pipeline.spec.sequence_modules import TargetAttention, Transformer

LENGTH, WIDTH, KINDS = 7, 4, 5
SHAPE = EventShape(LENGTH, WIDTH, KINDS)
SECTIONS = {
    "target_attention": TargetAttention(hidden=6, width=3),
    "transformer": Transformer(dim=8, layers=2, heads=2, width=3),
}
EACH = pytest.mark.parametrize("kind", SECTIONS)


def a_module(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Weights as large as after a long training, so that what must not matter would show."""
    torch.manual_seed(1)
    module = build_sequence(SECTIONS[kind], SHAPE).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return module


def some_events(lengths: list[int], dtype: torch.dtype = torch.float32, places: int = LENGTH, seed: int = 2) -> Events:
    generator = torch.Generator().manual_seed(seed)
    keys = len(lengths)
    there = torch.arange(places) < torch.tensor(lengths).unsqueeze(1)
    items = torch.randn((keys, places, WIDTH), generator=generator, dtype=dtype)
    ages = torch.rand((keys, places), generator=generator, dtype=dtype) * 1e6
    kinds = torch.randint(0, KINDS, (keys, places), generator=generator)
    return Events(items * there.unsqueeze(2), kinds * there, ages * there, there)


def targets(keys: int, candidates: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn((keys, candidates, WIDTH), generator=torch.Generator().manual_seed(3), dtype=dtype)


def cut(events: Events, rows: slice, places: int = LENGTH) -> Events:
    kinds = None if events.kinds is None else events.kinds[rows, :places]
    return Events(events.items[rows, :places], kinds, events.ages[rows, :places], events.there[rows, :places])


@EACH
def test_places_after_the_end_change_nothing(kind: str) -> None:
    module, events, target = a_module(kind), some_events([3, 3]), targets(2, 2)
    expected = module(events, target)
    short = cut(events, slice(None), 3)
    assert (module(short, target) - expected).abs().max() <= 1e-6
    # Whatever stands there.
    rubbish = Events(
        torch.where(events.there.unsqueeze(2), events.items, 9.0),
        torch.where(events.there, events.kinds, 3) if events.kinds is not None else None,
        torch.where(events.there, events.ages, OLDEST),
        events.there,
    )
    assert (module(rubbish, target) - expected).abs().max() <= 1e-6


@EACH
def test_each_key_and_candidate_is_scored_by_itself(kind: str) -> None:
    module, events, target = a_module(kind), some_events([7, 0, 2, 5]), targets(4, 3)
    together = module(events, target)
    assert together.shape == (4, 3, 3)
    for key in range(4):
        for candidate in range(3):
            alone = module(cut(events, slice(key, key + 1)), target[key : key + 1, candidate : candidate + 1])
            assert (alone[0, 0] - together[key, candidate]).abs().max() <= 1e-6


@EACH
def test_events_read_once_are_those_read_for_each_candidate(kind: str) -> None:
    module, events, target = a_module(kind), some_events([5]), targets(1, 6)
    again = Events(*(None if part is None else part.repeat_interleave(6, 0) for part in (
        events.items, events.kinds, events.ages, events.there
    )))  # fmt: skip
    each = module(again, target.transpose(0, 1))
    assert (module(events, target)[0] - each[:, 0]).abs().max() <= 1e-6


@EACH
def test_a_key_without_events_says_the_same_whatever_its_candidate(kind: str) -> None:
    module, events = a_module(kind), some_events([0, 4])
    found = module(events, targets(2, 5))
    assert torch.isfinite(found).all()
    assert bool((found[0] == found[0, :1]).all())
    assert not bool((found[1] == found[1, :1]).all())


@EACH
def test_what_each_event_says_matters(kind: str) -> None:
    """Item, kind and age of an event, and in a transformer its place too."""
    module, events, target = a_module(kind), some_events([6]), targets(1, 4)
    expected = module(events, target)
    assert events.kinds is not None
    other_kinds = events.kinds.clone()
    other_kinds[0, 2] = (other_kinds[0, 2] + 1) % KINDS
    for changed in (
        replace(events, items=events.items.roll(1, 2)),
        replace(events, kinds=other_kinds),
        replace(events, ages=events.ages * 3),
    ):
        assert (module(changed, target) - expected).abs().max() > 1e-4
    order = torch.tensor([1, 0, 2, 3, 4, 5, 6])
    swapped = Events(events.items[:, order], events.kinds[:, order], events.ages[:, order], events.there)
    assert ((module(swapped, target) - expected).abs().max() > 1e-4) == (kind == "transformer")


@EACH
def test_older_events_weigh_less(kind: str) -> None:
    """Of two equal events the recent one has the larger share, by the exponent of each head."""
    module = a_module(kind)
    recency = module.get_submodule("recency")
    events = some_events([2])
    ages = torch.zeros_like(events.ages)
    ages[0, 1] = 3 * 3600.0
    logits = recency(replace(events, ages=ages))[0]
    exponent = recency.get_parameter("exponent")
    torch.testing.assert_close(torch.exp(logits[:, 1] - logits[:, 0]), 4.0**-exponent)


@EACH
def test_gradient_by_finite_differences(kind: str) -> None:
    module = a_module(kind, torch.float64)
    events, target = some_events([5, 7, 0, 1], torch.float64), targets(4, 2, torch.float64)
    weights = torch.randn((4, 2, 3), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    items = events.items.clone().requires_grad_()
    target.requires_grad_()
    inputs = [("items", items), ("target", target), *module.named_parameters()]

    def value() -> Tensor:
        return (module(replace(events, items=items), target) * weights).sum()

    value().backward()
    for name, tensor in inputs:
        assert tensor.grad is not None, name
        size = float(tensor.grad.norm())
        assert size > 0, name
        errors = []
        for epsilon in (1e-4, 1e-5, 1e-6):
            with torch.no_grad():
                tensor.add_(tensor.grad / size, alpha=epsilon)
                above = value()
                tensor.sub_(tensor.grad / size, alpha=2 * epsilon)
                below = value()
                tensor.add_(tensor.grad / size, alpha=epsilon)
            errors.append(abs(float(above - below) / (2 * epsilon) - size) / size)
        assert min(errors) < 1e-6, name
    assert bool((items.grad[~events.there] == 0).all()) if items.grad is not None else False


def of(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().numpy()


def norm(x: NDArray[np.float64], layer: nn.Module) -> NDArray[np.float64]:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled * of(layer.get_parameter("weight")) + of(layer.get_parameter("bias"))


def linear(x: NDArray[np.float64], layer: nn.Linear) -> NDArray[np.float64]:
    return x @ of(layer.weight).T + (0 if layer.bias is None else of(layer.bias))


def encoded(module: ActivationUnit | EventTransformer, events: Events, key: int) -> NDArray[np.float64]:
    """One key's events, without those after the end."""
    count = int(events.there[key].sum())
    x = linear(norm(of(events.items[key, :count]), module.encoder.norm), module.encoder.project)
    for place in range(count):
        assert events.kinds is not None
        assert module.encoder.kinds is not None
        at = math.log(1 + float(events.ages[key, place]) / 3600) / math.log(1 + 366 * 24) * 7
        lower = min(int(at), 6)
        vectors = of(module.encoder.ages.vectors)
        x[place] += of(module.encoder.kinds)[int(events.kinds[key, place])]
        x[place] += (1 - (at - lower)) * vectors[lower] + (at - lower) * vectors[lower + 1]
    return x


def shares(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(logits) / (1 + np.exp(logits).sum(axis=-1, keepdims=True))


def test_target_attention_is_its_formula() -> None:
    module = a_module("target_attention", torch.float64)
    assert isinstance(module, ActivationUnit)
    events, target = some_events([5, 2], torch.float64), targets(2, 3, torch.float64)
    found = of(module(events, target))
    for key in range(2):
        x = encoded(module, events, key)
        hours = of(events.ages[key, : len(x)]) / 3600
        for candidate in range(3):
            q = norm(of(target[key, candidate]), module.norm)
            hidden = linear(x, module.of_event) + linear(q, module.of_target) + (x * q) @ of(module.of_product).T
            logits = np.maximum(hidden, 0) @ of(module.weigh.weight)[0] - of(module.recency.exponent) * np.log(
                1 + hours
            )
            r = shares(logits)
            p = r @ x
            output = np.maximum(linear(np.concatenate([p, p * q, [r.sum()]]), module.output), 0)
            np.testing.assert_allclose(found[key, candidate], output, rtol=1e-9, atol=1e-12)


def heads_of(module: EventTransformer, query: NDArray[np.float64], key: NDArray[np.float64], value: NDArray[np.float64], hours: NDArray[np.float64], exponent: NDArray[np.float64]) -> NDArray[np.float64]:  # fmt: skip
    width = query.shape[1] // module.heads
    parts = []
    for head in range(module.heads):
        at = slice(head * width, (head + 1) * width)
        logits = query[:, at] @ key[:, at].T / math.sqrt(width) - exponent[head] * np.log(1 + hours)
        parts.append(shares(logits) @ value[:, at])
    return np.concatenate(parts, axis=1)


def test_transformer_is_its_formula() -> None:
    module = a_module("transformer", torch.float64)
    assert isinstance(module, EventTransformer)
    events, target = some_events([5, 2], torch.float64), targets(2, 3, torch.float64)
    found = of(module(events, target))
    for key in range(2):
        x = encoded(module, events, key)
        x += of(module.places)[: len(x)]
        hours = of(events.ages[key, : len(x)]) / 3600
        for layer in module.layers:
            q, k, v = np.split(linear(norm(x, layer.norm), layer.read), 3, axis=1)
            x = x + linear(heads_of(module, q, k, v, hours, of(layer.recency.exponent)), layer.write)
            x = x + linear(np.maximum(linear(norm(x, layer.wide_norm), layer.widen), 0), layer.narrow)
        k, v = np.split(linear(norm(x, module.norm), module.read), 2, axis=1)
        candidate = linear(norm(of(target[key]), module.encoder.norm), module.encoder.project)
        q = linear(norm(candidate, module.norm), module.ask)
        p = heads_of(module, q, k, v, hours, of(module.recency.exponent))
        output = np.maximum(linear(np.concatenate([p, p * q], axis=1), module.output), 0)
        np.testing.assert_allclose(found[key], output, rtol=1e-9, atol=1e-12)


@EACH
def test_sixteen_bits_give_what_thirty_two_do_up_to_rounding(kind: str) -> None:
    module, events, target = a_module(kind), some_events([7, 0, 2]), targets(3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(events, target)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.float(), module(events, target), atol=0.2, rtol=0.1)
