"""Norms of layers from norms of parameters."""

import math
from collections.abc import Iterable, Mapping

MAX_LAYERS = 40
"""Largest number of layers with a curve of their own."""


def layers_of(names: Iterable[str], limit: int = MAX_LAYERS) -> dict[str, str]:
    """The layer of each parameter.

    A layer is the module that owns a parameter. Where there are more than ``limit``, modules are joined with their
    neighbours in the module above them, and in the end into one layer ``model``; this depends on the names alone, so
    it is the same at every step.

    Args:
        names: Names of the parameters (``tower.0.weight``).
        limit: Most layers.
    """
    owners = {name: name.rpartition(".")[0] or name for name in names}
    depth = max((owner.count(".") + 1 for owner in owners.values()), default=0)
    layers = owners
    while len(set(layers.values())) > limit:
        depth -= 1
        layers = {name: ".".join(owner.split(".")[:depth]) or "model" for name, owner in owners.items()}
    return layers


def layer_norms(norms: Mapping[str, float], limit: int = MAX_LAYERS) -> dict[str, float]:
    """Joint norm of the parameters of each layer (:func:`layers_of`), from the norm of each parameter."""
    return joined_norms(layers_of(norms, limit).values(), norms.values())


def joined_norms(layers: Iterable[str], norms: Iterable[float]) -> dict[str, float]:
    """Joint norm of each layer.

    Args:
        layers: The layer of each parameter.
        norms: Its norm.
    """
    parts: dict[str, list[float]] = {}
    for layer, norm in zip(layers, norms, strict=True):
        parts.setdefault(layer, []).append(norm)
    return {layer: math.hypot(*each) for layer, each in parts.items()}
