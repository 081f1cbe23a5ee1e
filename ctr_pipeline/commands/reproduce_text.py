"""What a reproduction found, as a person reads it."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_reproduction(report: Mapping[str, Any], console: Console) -> None:
    """Prints what a reproduction found for a person."""
    model = report["model"]
    console.print(f"\nRun {report['run_id']} of {report['day']}", highlight=False)
    arrays = report["arrays"]
    console.print(f"  arrays: {arrays['identical']} of {arrays['recorded']} identical", highlight=False)
    for name in arrays["different"]:
        console.print(f"    differs: {name}", highlight=False)
    if model["reproduced"] is None:
        console.print("  model: not trained again, since the arrays differ", highlight=False)
    else:
        console.print(
            f"  model recorded {model['recorded']}\n  model reproduced {model['reproduced']}", highlight=False
        )
    if report["environment"]:
        table = Table("differs", "recorded", "now")
        for found in report["environment"]:
            table.add_row(found["what"], found["recorded"], found["now"])
        console.print(table)
    console.print("[bold green]identical[/]" if report["identical"] else "[bold red]not identical[/]")
