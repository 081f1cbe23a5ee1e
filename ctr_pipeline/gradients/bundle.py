"""What is kept of a step that was stopped: enough to repeat it elsewhere."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

Kind = Literal["input", "parameter", "activation", "loss", "gradient", "overflow", "scaler"]

CAUSE_ORDER: tuple[Kind, ...] = ("input", "parameter", "activation", "loss", "gradient", "overflow", "scaler")
"""Causes in the order of the computation: what comes first explains what follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
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


def write_bundle(
    directory: Path, explanation: Explanation, state: Mapping[str, Any], records: Iterable[Mapping[str, Any]]
) -> None:
    """Write the bundle of a stopped step.

    Args:
        directory: Made when absent.
        explanation: The cause, as explanation.json.
        state: Batch, parameters, optimizer state and generator state at the step's start, as step.pt.
        records: The last steps' records, oldest first, as records.jsonl.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "explanation.json").write_text(json.dumps(explanation.to_dict(), indent=1) + "\n", encoding="utf-8")
    (directory / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    torch.save(dict(state), directory / "step.pt")
