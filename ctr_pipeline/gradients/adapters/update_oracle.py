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
    weights = given.before.double()
    rate, (first, second) = float(given.settings["lr"]), given.settings["betas"]
    state = adamw_state(given)
    count, mean, square = float(state["step"]), state["exp_avg"], state["exp_avg_sq"]
    decayed = weights * (1 - rate * float(given.settings["weight_decay"]))
    denominator = (square / (1 - second**count)).sqrt() + float(given.settings["eps"])
    after: Tensor = decayed - rate * (mean / (1 - first**count)) / denominator
    return after


def adamw_state(given: UpdateInput) -> dict[str, Tensor]:
    """What AdamW remembers after one update: updates made, running means of the gradient and of its square."""
    gradient, (first, second) = given.gradient.double(), given.settings["betas"]
    zero = torch.zeros_like(gradient)
    mean, square = (given.state.get(key, zero).double() for key in ("exp_avg", "exp_avg_sq"))
    return {
        "step": torch.tensor(float(given.state.get("step", 0)) + 1),
        "exp_avg": first * mean + (1 - first) * gradient,
        "exp_avg_sq": second * square + (1 - second) * gradient * gradient,
    }


def rowwise_adagrad_update(given: UpdateInput) -> Tensor:
    """The rows after one update of row-wise Adagrad: one sum of mean squares a row (Duchi et al., JMLR 2011)."""
    rows = given.before.double()
    kept = rowwise_adagrad_state(given)["accumulated"]
    return rows - float(given.settings["lr"]) * _penalised(given) / (kept.sqrt() + ADAGRAD_EPSILON).unsqueeze(1)


def rowwise_adagrad_state(given: UpdateInput) -> dict[str, Tensor]:
    """What row-wise Adagrad remembers of the rows after one update: the sum of their mean squares."""
    gradient = _penalised(given)
    kept = given.state.get("accumulated", torch.zeros(len(gradient))).double()
    return {"accumulated": kept + (gradient * gradient).mean(dim=1)}


def _penalised(given: UpdateInput) -> Tensor:
    return given.gradient.double() + float(given.settings["l2"]) * given.before.double()
