"""The architectures of the heads in NumPy, row by row where that says more, from stored weights alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def linear(weights: Weights, path: str, rows: Array) -> Array:
    bias = weights.get(f"{path}.bias", 0.0)
    return rows @ weights[f"{path}.weight"].T + bias


def layers(weights: Weights, path: str, rows: Array) -> Array:
    """Linear, layer normalisation, rectified; as many as there are."""
    place = 0
    while f"{path}.{place}.linear.weight" in weights:
        at = f"{path}.{place}"
        values = linear(weights, f"{at}.linear", rows)
        centred = values - values.mean(axis=1, keepdims=True)
        values = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        rows = np.maximum(values * weights[f"{at}.norm.weight"] + weights[f"{at}.norm.bias"], 0.0)
        place += 1
    return rows


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def mixture(scores: Array, outputs: Sequence[Array]) -> Array:
    shares = softmax(scores)
    return np.stack([sum(shares[b, e] * f[b] for e, f in enumerate(outputs)) for b in range(len(scores))])


def gated(oracle: Callable[..., list[Array]]) -> Callable[..., Array]:
    """The oracle of an architecture with and without gates on the parent."""

    def compute(weights: Weights, hidden: Array, parents: Sequence[int], section: Any) -> Array:
        if section.gate_on is None:
            return np.stack(oracle(weights, hidden, parents, section), axis=1)
        inner = {key.removeprefix("head."): value for key, value in weights.items() if key.startswith("head.")}
        read, place = oracle(inner, hidden, parents, section), 0
        for task, parent in enumerate(parents):
            if parent >= 0:
                scores = linear(weights, f"gates.{place}", read[parent])
                read[task] = read[task] * 2 / (1 + np.exp(-scores))
                place += 1
        return np.stack(read, axis=1)

    return compute


def shared_bottom(_: Weights, hidden: Array, parents: Sequence[int], __: Any) -> list[Array]:
    return [hidden for _ in parents]


def task_towers(weights: Weights, hidden: Array, parents: Sequence[int], _: Any) -> list[Array]:
    return [layers(weights, f"own.{task}", hidden) for task in range(len(parents))]


def mmoe(weights: Weights, hidden: Array, parents: Sequence[int], section: Any) -> list[Array]:
    outputs = [layers(weights, f"experts.{e}", hidden) for e in range(section.experts)]
    mixtures = [mixture(linear(weights, f"own.{t}.gate", hidden), outputs) for t in range(len(parents))]
    return [layers(weights, f"own.{t}.tower", mixed) for t, mixed in enumerate(mixtures)]


def ple(weights: Weights, hidden: Array, parents: Sequence[int], section: Any) -> list[Array]:
    shared, read = hidden, [hidden for _ in parents]
    for level in range(section.levels):
        of_shared = [layers(weights, f"shared_experts.{level}.{e}", shared) for e in range(section.shared_experts)]
        of_tasks = [
            [layers(weights, f"own.{t}.experts_{level}.{e}", x) for e in range(section.task_experts)]
            for t, x in enumerate(read)
        ]
        following = [
            mixture(linear(weights, f"own.{t}.gate_{level}", x), of_tasks[t] + of_shared) for t, x in enumerate(read)
        ]
        if level + 1 < section.levels:
            scores = linear(weights, f"shared_gates.{level}", shared)
            shared = mixture(scores, of_shared + [f for outputs in of_tasks for f in outputs])
        read = following
    return [layers(weights, f"own.{t}.tower", x) for t, x in enumerate(read)]


def aitm(weights: Weights, hidden: Array, parents: Sequence[int], section: Any) -> list[Array]:
    read: list[Array] = []
    for task, parent in enumerate(parents):
        own = layers(weights, f"own.{task}.tower", hidden)
        if parent >= 0:
            at, rows = f"own.{task}", []
            passed = np.maximum(linear(weights, f"{at}.transfer", read[parent]), 0.0)
            key, query, value = (weights[f"{at}.{name}.weight"] for name in ("key", "query", "value"))
            for p, q in zip(passed, own, strict=True):
                answers = [float((key @ u) @ (query @ u)) / math.sqrt(len(u)) for u in (p, q)]
                shares = softmax(np.array([answers]))[0]
                rows.append(shares[0] * (value @ p) + shares[1] * (value @ q))
            own = np.stack(rows)
        read.append(own)
    return read


ORACLES: dict[str, Callable[..., Array]] = {
    "shared_bottom": gated(shared_bottom),
    "task_towers": gated(task_towers),
    "mmoe": gated(mmoe),
    "ple": gated(ple),
    "aitm": gated(aitm),
}
