"""`ctr drill`: faults in a real training, on made-up rows."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ctr_pipeline.cli.options import JsonOption, console, user_errors, write_json


def drill(
    fault: Annotated[str, typer.Option(help="Name of the fault; `list` shows them.")] = "list",
    seed: Annotated[int, typer.Option(min=0, help="Seed of rows, weights and fault.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the tarball.")] = Path("drills"),
    unchecked: Annotated[bool, typer.Option(help="Without contracts, as the fault would go on.")] = False,
    score: Annotated[bool, typer.Option(help="Run all faults of a half instead, and show what notices them.")] = False,
    half: Annotated[str, typer.Option(help="With --score: development, scored or all.")] = "development",
    seeds: Annotated[int, typer.Option(min=1, help="With --score: seeds of each fault.")] = 1,
    json_out: JsonOption = None,
) -> None:
    """Put a fault into a real training on made-up rows, and keep what a person needs to find it."""
    from ctr_pipeline.commands.drill import make_drill, score_drills

    if score:
        rows = score_drills(range(1, seeds + 1), half, lambda text: console().print(text, style="dim"))
        write_json({"drills": rows}, json_out)
        console().print(_scores(rows))
        silent = sorted({row["fault"] for row in rows if row["fault"] and not row["stopped"]})
        console().print(f"faults that end without an error: {', '.join(silent) or 'none'}")
        return
    if fault == "list":
        from ctr_pipeline.gradients.drills import registered_faults

        table = Table("fault", "family", "half", "cause")
        for known in registered_faults():
            table.add_row(known.name, known.family, known.half, known.cause)
        console().print(table)
        return
    with user_errors():
        found = make_drill(fault, seed, output, not unchecked)
    write_json(found, json_out)
    console().print(f"{found['file']}  sha256 {found['sha256']}")
    console().print(f"noticed by {found['found_by'] or 'nothing'}, after {found['found_at']} steps. {found['message']}")


def _scores(rows: list[dict[str, object]]) -> Table:
    table = Table("fault", "family", "seed", "noticed by", "after steps", "ends with an error", "validation")
    for row in rows:
        value = row["validation"]
        table.add_row(
            str(row["fault"] or "healthy"), str(row["family"]), str(row["seed"]), str(row["found_by"] or "nothing"),
            "" if row["found_at"] is None else str(row["found_at"]), "yes" if row["stopped"] else "no",
            f"{value:.4f}" if isinstance(value, float) else "",
        )  # fmt: skip
    return table
