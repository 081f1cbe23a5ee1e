"""`ctr explain`: why a model predicts what it does, and why another one predicts otherwise."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ctr_pipeline.cli.options import JsonOption, console, fail, user_errors, write_json


def explain(
    run_a: Annotated[
        str | None,
        typer.Argument(
            help="Retrain before: MLflow run id, day, `latest`, or a folder such as data/ads/training/2026-02-21."
        ),
    ] = None,
    run_b: Annotated[str | None, typer.Argument(help="Retrain that is explained, named likewise.")] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Data root in which runs are looked for by id or day.")
    ] = None,
    other_root: Annotated[
        Path | None, typer.Option("--other-root", help="Data root of RUN_B, where that is another one.")
    ] = None,
    json_out: JsonOption = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write the page to this file.")] = None,
) -> None:
    """Say why a retrain predicts otherwise than another one: ranked causes, each with what speaks for and against it."""
    if run_a is None or run_b is None:
        fail("name two retrains: `ctr explain RUN_A RUN_B`; see docs/explain.md.")
    from ctr_pipeline.attribution.change_page import change_page
    from ctr_pipeline.commands.explain import explain_change
    from ctr_pipeline.commands.explain_text import print_change

    with user_errors():
        found = explain_change(run_a, run_b, data_root, other_root, Console(stderr=True).print)
    write_json(found, json_out)
    if html_out is not None:
        html_out.parent.mkdir(parents=True, exist_ok=True)
        html_out.write_text(change_page(found), encoding="utf-8")
    print_change(found, console())
