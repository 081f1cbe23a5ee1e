"""The cause of a stop: the first tensor, in the order of the computation, that was not finite; or the limit that was broken."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "input", "parameter", "buffer", "optimizer_state", "activation", "loss", "gradient", "overflow", "scaler", "update", "contract", "health", "divergence"
]  # fmt: skip

CAUSE_ORDER: tuple[Kind, ...] = (
    "input", "parameter", "buffer", "optimizer_state", "activation", "loss", "gradient", "overflow", "scaler", "update", "contract", "health", "divergence",
)  # fmt: skip
"""Causes in the order of the computation: what comes first explains what follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Why a training was stopped.

    Attributes:
        kind: Where in the computation the first value is that was not finite; ``contract`` for a check of the built
            training, ``health`` for a detector that stops, ``divergence`` for a model worse than a constant.
        tensor: Its name: an input array, a parameter, a module's output, a task's loss; the check or the detector of
            the other kinds, where it names no tensor.
        feature: The feature it belongs to, for inputs and embedding rows.
        row: Row of the training arrays for an input, row of the feature's vocabulary for an embedding; None otherwise.
        step: Steps taken before the one that was stopped.
        message: The same as a sentence.
        source: File and line of the operation, for a value that was computed; None where it is not known.
        leading: Name of the detector whose finding explains more than the value that was not finite; None where none does.
    """

    kind: Kind
    tensor: str
    feature: str | None
    row: int | None
    step: int
    message: str
    source: str | None = None
    leading: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
