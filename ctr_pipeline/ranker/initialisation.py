"""Initial weights. Each part draws from a generator of its own, so that none depends on which others there are."""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import IdColumn
from ctr_pipeline.ranker.embeddings import FusedTable

EMBEDDING_LENGTH = 0.04
"""Expected length of a new embedding whatever its width; small, so that rare rows start without influence."""

_STARTS_AT_ZERO = "starts_at_zero"


def part_seed(seed: int, part: str) -> int:
    """Seed of one part of a model."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{part}".encode()).digest()[:8], "big") >> 1


def initialise_table(table: FusedTable, columns: Sequence[IdColumn], seed: int) -> None:
    """Normal values, each of standard deviation length / √width, for each feature by its own name."""
    std = EMBEDDING_LENGTH / math.sqrt(table.width)
    weight = table.table.weight
    with torch.no_grad():
        for index, start in table.owned():
            column = columns[index]
            weight[start : start + column.rows].normal_(
                0.0, std, generator=_generator(seed, f"embedding of {column.name}")
            )


def initialise_hidden(linear: nn.Linear, seed: int, part: str) -> None:
    """For a layer that is rectified, whose outputs then vary as its inputs do (He et al., ICCV 2015); biases are 0."""
    nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=_generator(seed, part))
    nn.init.zeros_(linear.bias)


def initialise_head(linear: nn.Linear, seed: int) -> None:
    """A tenth of what suits a layer that is not rectified (Glorot & Bengio, AISTATS 2010); biases are 0.

    Normalised hidden units are large from the start: so an untrained model predicts close to each task's rate, and its
    first steps have little noise to unlearn.
    """
    nn.init.xavier_uniform_(linear.weight, gain=0.1, generator=_generator(seed, "heads"))
    nn.init.zeros_(linear.bias)


def start_at_zero(linear: nn.Linear) -> None:
    """Zeros for the weights of a layer that is meant to start so, such as a gate: :func:`starting_at_zero` knows it."""
    nn.init.zeros_(linear.weight)
    setattr(linear, _STARTS_AT_ZERO, True)


def starting_at_zero(model: nn.Module) -> list[str]:
    """Paths of the layers that are meant to start with zeros, and so are no mistake where they do."""
    return [path for path, module in model.named_modules() if getattr(module, _STARTS_AT_ZERO, False)]


def without_influence(weight: Tensor, columns: slice) -> None:
    """Zeros for some inputs: while they are 0 in all training rows, the weights stay so."""
    with torch.no_grad():
        weight[:, columns] = 0.0


def _generator(seed: int, part: str) -> torch.Generator:
    return torch.Generator().manual_seed(part_seed(seed, part))
