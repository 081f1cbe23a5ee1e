"""What `ctr controls` prints."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

AS_IT_IS = "multi-task"
"""Name of the model of the spec itself."""


VERDICTS = {"worse": "hurts", "better": "helps", "even": "cannot tell", "not measured": "not measured"}
"""What sharing with other tasks does to a task, by how the model compares with the control."""


def print_comparisons(found: Mapping[str, Any], console: Console) -> None:
    """One row a task and model, and a sentence for each task that is worse than its control."""
    seeds = found["seeds"]
    console.print(
        f"Test rows of {found['day']}, mean over {len(seeds)} training seed{'s' if len(seeds) > 1 else ''}. In brackets the "
        "95 % interval of the difference to the single-task control, paired by user."
    )
    table = Table(
        "task", "model", "positives", "AUC", "control", "difference", "NE", "control", "difference", "sharing"
    )
    for own in found["comparisons"]:
        table.add_row(
            own["task"], own["side"], f"{own['positives']:,}",
            _number(own["auc"]), _number(own["control_auc"]), _difference(own["auc_difference"]),
            _number(own["ne"]), _number(own["control_ne"]), _difference(own["ne_difference"]), VERDICTS[own["verdict"]],
        )  # fmt: skip
    for own in found.get("by_value", ()):
        worth = ", ".join(f"{task} {value:g}" for task, value in own["values"].items())
        table.add_row(
            f"all, by value ({worth})",
            own["side"],
            *["–"] * 6,
            _difference(own["ne_difference"]),
            VERDICTS[own["verdict"]],
        )
    console.print(table)
    for sentence in negative_transfer(found):
        console.print(sentence)
    if found.get("gradient_conflict") is not None:
        print_conflict(found["gradient_conflict"], console)


def print_conflict(found: Mapping[str, Any], console: Console) -> None:
    """A row for each pair of tasks, beside how much of each one's gradient repeats in other rows."""
    table = Table("tasks", "cosine", "95 % interval", "noise included", "repeats: first", "second", "")
    for pair in found["pairs"]:
        first, second = pair["tasks"]
        cosine, repeats = pair["cosine"], found["split_half"]
        table.add_row(
            f"{first}, {second}",
            "not measured" if cosine is None else f"{cosine['value']:+.2f}",
            "–" if cosine is None else f"{cosine['low']:+.2f} to {cosine['high']:+.2f}",
            f"{pair['observed']:+.2f}", f"{repeats[first]:.2f}", f"{repeats[second]:.2f}",
            "conflict" if pair["conflicts"] else "",
        )  # fmt: skip
    console.print(
        f"Gradients of the trained model's tasks on the {found['parameters']:,} dense weights that they share, over "
        f"{found['rows']:,} training rows in {found['blocks']} blocks:"
    )
    console.print(table)


def negative_transfer(found: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each task that a model of several tasks predicts worse than a model of its own."""
    worse = [own for own in found["comparisons"] if own["verdict"] == "worse"]
    for own in worse:
        change = own["ne_difference"]
        model = "the model" if own["side"] == AS_IT_IS else own["side"]
        yield (
            f"Negative transfer: {own['task']} is worse in {model} than its single-task control, by {change['value']:.4f} NE "
            f"({_bound(change['low'])} to {_bound(change['high'])}). Give it hidden layers of its own (`model.multi_task: "
            "task_towers`, `mmoe` or `ple`), or keep the losses of other tasks from what they share "
            "(`model.multi_task.stop_gradient`)."
        )
    if not worse:
        yield "No task is significantly worse than its single-task control."


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _bound(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def _difference(interval: Mapping[str, float | None] | None) -> str:
    if interval is None:
        return "–"
    return f"{_bound(interval['value'])} [{_bound(interval['low'])}, {_bound(interval['high'])}]"
