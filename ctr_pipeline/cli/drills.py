"""`ctr drill`: faults in a real training, on made-up rows."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ctr_pipeline.cli.options import JsonOption, console, user_errors, write_json


def drill(
    fault: Annotated[str, typer.Option(help="Name of the fault; `list` shows them.")] = "list",
    seed: Annotated[int, typer.Option(min=0, help="Seed of rows, weights and fault.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the tarball.")] = Path("drills"),
    unchecked: Annotated[bool, typer.Option(help="Without contracts, as the fault would go on.")] = False,
    why: Annotated[
        bool, typer.Option(help="Say what triage makes of it, with replays of remedies, instead of a tarball.")
    ] = False,
    score: Annotated[
        bool, typer.Option(help="Run all faults of a half instead, and score what is made of them.")
    ] = False,
    half: Annotated[str, typer.Option(help="With --score: development, scored or all.")] = "development",
    seeds: Annotated[int, typer.Option(min=1, help="With --score: seeds of each fault and healthy variant.")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="With --score: this fault; may be given several times.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="With --score: generic alarms and default rules beside it.")] = True,
    healthy: Annotated[bool, typer.Option(help="With --score: healthy variants too, for false alarms.")] = True,
    replay: Annotated[bool, typer.Option(help="With --score: let triage try its remedies.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="With --score: processes.")] = 1,
    json_out: JsonOption = None,
) -> None:
    """Put a fault into a real training on made-up rows, and keep what a person needs to find it."""
    from ctr_pipeline.commands.drill import make_drill, score_drills

    if score:
        with user_errors():
            found = score_drills(
                seeds, half, faults=only or (), baselines=baselines, healthy=healthy, replay=replay, processes=processes,
                progress=lambda text: console().print(text, style="dim"),
            )  # fmt: skip
        write_json(found, json_out)
        for table in score_tables(found):
            console().print(table)
        for line in score_lines(found):
            console().print(line)
        return
    if fault == "list":
        from ctr_pipeline.gradients.drills import registered_faults

        table = Table("fault", "family", "half", "cause")
        for known in registered_faults():
            table.add_row(known.name, known.family, known.half, known.cause)
        console().print(table)
        return
    if why:
        from ctr_pipeline.commands.why import explain_drill
        from ctr_pipeline.commands.why_text import print_why

        with user_errors():
            found = explain_drill(fault, seed, contracts=not unchecked)
        write_json(found, json_out)
        print_why(found, console())
        return
    with user_errors():
        found = make_drill(fault, seed, output, not unchecked)
    write_json(found, json_out)
    console().print(f"{found['file']}  sha256 {found['sha256']}")
    console().print(f"noticed by {found['found_by'] or 'nothing'}, after {found['found_at']} steps. {found['message']}")


_MEASURES = (
    ("first cause right", "top1"),
    ("right among the first three", "top3"),
    ("right place, of those named right", "located"),
    ("no cause named", "abstained"),
    ("wrong, of those it is sure of", "wrong_while_sure"),
    ("ends with nothing red", "silent"),
    ("ends with every check green", "green"),
    ("generic alarms: noticed", "generic"),
    ("default rules: noticed", "rules"),
    ("default rules silent in healthy trainings: noticed", "rules_beyond_healthy"),
    ("the same: first rule names it", "rules_named"),
)


def score_tables(found: dict[str, Any]) -> list[Table]:
    """The score of each half, and the false alarms of healthy trainings."""
    halves = found["halves"]
    scores = Table("", *(f"{half['half']} ({half['faults']} faults, {half['families']} families)" for half in halves))
    for title, name in _MEASURES:
        scores.add_row(title, *(_share(half[name]) for half in halves))
    steps = [(half["steps_median"], half["steps_p90"]) for half in halves]
    scores.add_row("steps before it is noticed: median, 90 %", *(_steps(*pair) for pair in steps))
    healthy = found["healthy"]
    alarms = Table(
        f"{healthy['runs']} healthy trainings, {healthy['steps']} steps", "alarms", "per 10,000 steps", "95 % interval"
    )
    for title, name in (
        ("stops and errors", "hard"), ("warnings", "warnings"), ("generic alarms", "generic"), ("default rules", "rules"),
    ):  # fmt: skip
        value, low, high = healthy[name]["per_10000_steps"]
        alarms.add_row(title, str(healthy[name]["count"]), f"{value:.2f}", f"{low:.2f} to {high:.2f}")
    return [scores, alarms]


def score_lines(found: dict[str, Any]) -> list[str]:
    """What the tables do not say: which faults are silent, and which are named wrong."""
    lines = []
    for half in found["halves"]:
        silent = ", ".join(f"{fault} ({count})" for fault, count in half["silent_faults"].items())
        lines.append(f"{half['half']}, ends with nothing red: {silent or 'none'}")
        green = ", ".join(f"{fault} ({count})" for fault, count in half["green_faults"].items())
        lines.append(f"{half['half']}, ends with every check green: {green or 'none'}")
        wrong = "; ".join(
            f"{fault}: {', '.join(f'{cause} ({count})' for cause, count in causes.items())}"
            for fault, causes in half["misnamed"].items()
        )
        lines.append(f"{half['half']}, not named right first: {wrong or 'none'}")
        if half["troubles"]:
            lines.append(f"{half['half']}, triage raised an error: {half['troubles']}")
    healthy = found["healthy"]
    named, sure = healthy["named"], healthy["sure"]
    lines.append(f"healthy trainings with a cause: {named['count']} of {named['of']}, sure of it: {sure['count']}")
    if healthy["refused"]:
        lines.append(f"healthy variants refused: {healthy['refused']}")
    return lines


def _share(share: dict[str, Any]) -> str:
    if not share["of"]:
        return "–"
    low, high = share["interval"]
    return f"{share['share']:.1%} ({share['count']} of {share['of']}; {low:.1%} to {high:.1%})"


def _steps(middle: float | None, late: float | None) -> str:
    return "–" if middle is None or late is None else f"{middle:g}, {late:g}"
