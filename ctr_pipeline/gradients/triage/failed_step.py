"""What is kept of a step that was stopped: enough to repeat it elsewhere."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ctr_pipeline.gradients.core.diagnosis import Diagnosis


def dump_failed_step(
    directory: Path, diagnosis: Diagnosis, content: Mapping[str, Any], records: Iterable[Mapping[str, Any]]
) -> Path:
    """Write a stopped step; one that was written before stays.

    Args:
        directory: Made when absent. Where it holds a step already, this one goes into a folder in it with the next number.
        diagnosis: The cause, as diagnosis.json.
        content: What the step repeats from, plain values and tensors, as step.pt.
        records: The last steps' records, oldest first, as records.jsonl.

    Returns:
        The folder.
    """
    folder, number = directory, 1
    while (folder / "diagnosis.json").exists():
        number += 1
        folder = directory / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(content), folder / "step.pt")
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    (folder / "diagnosis.json").write_text(json.dumps(diagnosis.to_dict(), indent=1) + "\n", encoding="utf-8")
    return folder
