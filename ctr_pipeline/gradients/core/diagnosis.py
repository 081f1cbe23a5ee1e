"""The cause of a stopped step: the first tensor, in the order of the computation, that was not finite."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["input", "parameter", "activation", "loss", "gradient", "overflow", "scaler", "contract"]

CAUSE_ORDER: tuple[Kind, ...] = (
    "input",
    "parameter",
    "activation",
    "loss",
    "gradient",
    "overflow",
    "scaler",
    "contract",
)
"""Causes in the order of the computation: what comes first explains what follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The first tensor, in the order of the computation, that was not finite.

    Attributes:
        kind: Where in the computation it is.
        tensor: Its name: an input array, a parameter, a module's output, a task's loss.
        feature: The feature it belongs to, for inputs and embedding rows.
        row: Row of the training arrays for an input, row of the feature's vocabulary for an embedding; None otherwise.
        step: Steps taken before the one that was stopped.
        message: The same as a sentence.
    """

    kind: Kind
    tensor: str
    feature: str | None
    row: int | None
    step: int
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
