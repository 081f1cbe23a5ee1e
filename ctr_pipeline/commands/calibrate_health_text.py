"""What `ctr calibrate-health` prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ctr_pipeline.gradients import registered_detectors


def print_limits(found: Mapping[str, Any], console: Console) -> None:
    """The limits beside the rules of thumb that they replace, and what they promise."""
    table = Table("detector", "rule of thumb", "limit")
    for detector in registered_detectors():
        if detector.name in found["limits"]:
            table.add_row(detector.name, f"{detector.rule:g}", f"{found['limits'][detector.name]:.3g}")  # type: ignore[attr-defined]
    console.print(table)
    console.print(
        f"From {found['runs']} healthy runs of the training of {found['day']}, {found['steps']:,} steps: at most "
        f"{found['false_alarms']:.3g} false warnings of each detector by 10,000 steps, with a confidence of 95 %. Trainings "
        "with the same settings of model, training and tasks use them from now on."
    )
