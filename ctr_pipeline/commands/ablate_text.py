"""What `ctr ablate` prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_ablation(found: Mapping[str, Any], console: Console) -> None:
    """One row a task and part, the part that is worth most first."""
    seeds = len(found["seeds"])
    console.print(
        f"Test rows of {found['day']}, mean over {seeds} training seed{'s' if seeds > 1 else ''}: the model without a part, and "
        "in brackets the 95 % interval of its difference to the whole model, paired by user. An NE that rises says that the "
        "part is worth something.",
        soft_wrap=True,
    )
    table = Table("task", "model", "AUC", "difference", "NE", "difference", "the part", "seconds")
    for task in dict.fromkeys(own["task"] for own in found["comparisons"]):
        rows = [own for own in found["comparisons"] if own["task"] == task]
        if not rows:
            continue
        table.add_row(task, "as it is", _number(rows[0]["control_auc"]), "", _number(rows[0]["control_ne"]), "", "", _seconds(found, "as it is"))  # fmt: skip
        for own in sorted(rows, key=lambda of: -((of["ne_difference"] or {}).get("value") or 0.0)):
            table.add_row(
                "", own["side"], _number(own["auc"]), _difference(own["auc_difference"]), _number(own["ne"]),
                _difference(own["ne_difference"]), WORTH[own["verdict"]], _seconds(found, own["side"]),
            )  # fmt: skip
    console.print(table)


WORTH = {"worse": "helps", "better": "harms", "even": "no clear difference", "not measured": "not measured"}
"""What the verdict on the model without a part says of the part."""


def _seconds(found: Mapping[str, Any], side: str) -> str:
    return f"{found['seconds'][side]:.0f}" if side in found["seconds"] else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _difference(interval: Mapping[str, float | None] | None) -> str:
    if interval is None or interval["value"] is None:
        return "–"
    bounds = ", ".join("–" if interval[name] is None else f"{interval[name]:+.4f}" for name in ("low", "high"))
    return f"{interval['value']:+.4f} [{bounds}]"
