"""Losses of the first steps, compared with those of an earlier version."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from ctr_pipeline.gradients.contracts.outcome import Outcome

NAME = "golden_losses"
ELSEWHERE = 1e-4
"""Largest relative difference on another platform, where sums are taken in another order."""


def check_golden_losses(losses: Sequence[float], file: Path, *, update: bool = False) -> Outcome:
    """The losses are those of ``file``: to the bit on its platform, nearly so on another.

    Args:
        losses: Loss of each step.
        file: JSON; written when absent and with ``update``. Keep it beside the test, under version control.
        update: Whether to write the losses instead of comparing them.
    """
    here = f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    if update or not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"platform": here, "losses": [float(loss).hex() for loss in losses]}
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        message = f"{file.name} was written: look at it, add it to version control, and run the test again"
        return Outcome(name=NAME, verdict="passed" if update else "not_measured", message=message)
    content = json.loads(file.read_text(encoding="utf-8"))
    golden = [float.fromhex(text) for text in content["losses"]]
    if len(golden) != len(losses):
        message = f"{file.name} has {len(golden)} losses, {len(losses)} found: --update-golden-losses writes it anew"
        return Outcome(name=NAME, verdict="failed", message=message)
    limit = 0.0 if content["platform"] == here else ELSEWHERE
    for step, (expected, found) in enumerate(zip(golden, losses, strict=True)):
        error = abs(found - expected) / max(abs(expected), 1e-12)
        if not error <= limit:
            message = (
                f"step {step}: the loss is {found!r}, and {expected!r} in {file.name} (written with {content['platform']}): "
                "if the change is meant, --update-golden-losses writes the file anew"
            )
            return Outcome(
                name=NAME, verdict="failed", message=message, measured=error, limit=limit, where=f"step {step}"
            )
    message = f"{len(golden)} losses are those of {file.name}"
    return Outcome(name=NAME, verdict="passed", message=message, measured=0.0, limit=limit)
