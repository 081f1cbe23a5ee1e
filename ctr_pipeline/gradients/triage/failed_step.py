"""What is kept of a step that was stopped: enough to repeat it elsewhere."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.core.diagnosis import Diagnosis


def dump_failed_step(
    directory: Path,
    diagnosis: Diagnosis,
    batch: BatchView,
    random_before: Mapping[str, Any],
    weights: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
) -> None:
    """Write a stopped step: with these weights, this batch and this random state it repeats.

    Args:
        directory: Made when absent.
        diagnosis: The cause, as diagnosis.json.
        batch: The step's batch; goes into step.pt.
        random_before: State of the generators at the step's start; goes into step.pt.
        weights: States of the model, the optimizers and the loss scaler at the step's start; go into step.pt.
        records: The last steps' records, oldest first, as records.jsonl.
    """
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "diagnosis.json").write_text(json.dumps(diagnosis.to_dict(), indent=1) + "\n", encoding="utf-8")
    (directory / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    torch.save(
        {
            "batch": {name: value for name, value in tensors.items() if value is not None},
            "random": dict(random_before),
            **weights,
        },
        directory / "step.pt",
    )
