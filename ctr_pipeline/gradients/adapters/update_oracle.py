"""What the declared optimizers write, once more in float64 and by formulas of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ADAGRAD_EPSILON = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateInput:
    """What the update of one parameter is computed from.

    Attributes:
        before: Its values before the update; of a table those of the rows that have a gradient.
        gradient: What the optimizer received, of the same shape.
        state: The optimizer's state of it before the update: empty before the first one. Of a table, of the same rows.
        settings: The declared settings of its group, ``lr`` that of the step.
    """

    before: Tensor
    gradient: Tensor
    state: Mapping[str, Any]
    settings: Mapping[str, Any]


def adamw_update(given: UpdateInput) -> Tensor:
    """The values after one update of AdamW (Loshchilov & Hutter, ICLR 2019, algorithm 2)."""
    weights, gradient = given.before.double(), given.gradient.double()
    rate, (first, second) = float(given.settings["lr"]), given.settings["betas"]
    count = float(given.state.get("step", 0)) + 1
    mean = given.state["exp_avg"].double() if "exp_avg" in given.state else torch.zeros_like(weights)
    square = given.state["exp_avg_sq"].double() if "exp_avg_sq" in given.state else torch.zeros_like(weights)
    mean = first * mean + (1 - first) * gradient
    square = second * square + (1 - second) * gradient * gradient
    decayed = weights * (1 - rate * float(given.settings["weight_decay"]))
    denominator = (square / (1 - second**count)).sqrt() + float(given.settings["eps"])
    after: Tensor = decayed - rate * (mean / (1 - first**count)) / denominator
    return after


def rowwise_adagrad_update(given: UpdateInput) -> Tensor:
    """The rows after one update of row-wise Adagrad: one sum of mean squares a row (Duchi et al., JMLR 2011)."""
    rows, gradient = given.before.double(), given.gradient.double()
    gradient = gradient + float(given.settings["l2"]) * rows
    kept = given.state["accumulated"].double() if "accumulated" in given.state else torch.zeros(len(rows)).double()
    kept = kept + (gradient * gradient).mean(dim=1)
    return rows - float(given.settings["lr"]) * gradient / (kept.sqrt() + ADAGRAD_EPSILON).unsqueeze(1)
