"""Norms of layers from norms of parameters."""

import math
from collections.abc import Iterable, Mapping

MAX_LAYERS = 40
"""Largest number of layers with a curve of their own."""


def layer_norms(norms: Mapping[str, float], limit: int = MAX_LAYERS) -> dict[str, float]:
    """Joint norm of each layer's parameters.

    A layer is the module that owns a parameter. Where there are more than ``limit``, modules are joined with their
    neighbours in the module above them, and in the end into one layer ``model``; this depends on the names alone, so
    it is the same at every step.

    Args:
        norms: Norm by name of the parameter (``tower.0.weight``).
        limit: Most layers.
    """
    owners = {name: name.rpartition(".")[0] or name for name in norms}
    depth = max((owner.count(".") + 1 for owner in owners.values()), default=0)
    layers = owners
    while len(set(layers.values())) > limit:
        depth -= 1
        layers = {name: ".".join(owner.split(".")[:depth]) or "model" for name, owner in owners.items()}
    return {layer: _joint(norms[n] for n in layers if layers[n] == layer) for layer in dict.fromkeys(layers.values())}


def _joint(norms: Iterable[float]) -> float:
    return math.hypot(*norms)
