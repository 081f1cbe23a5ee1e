"""`ctr explain`: why a model predicts what it does, and why another one predicts otherwise."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ctr_pipeline.cli.data import hashing_key
from ctr_pipeline.cli.options import JsonOption, console, fail, held, user_errors, write_json

DEFAULT_ROOT = Path("data/ads")


def explain(
    run_a: Annotated[
        str | None,
        typer.Argument(
            help="Retrain before: MLflow run id, day, `latest`, or a folder such as data/ads/training/2026-02-21. "
            "With --impression or --row the retrain whose model is asked, by id or day; by default the newest."
        ),
    ] = None,
    run_b: Annotated[str | None, typer.Argument(help="Retrain that is explained, named likewise.")] = None,
    impression: Annotated[
        str | None,
        typer.Option(
            "--impression",
            help="Explain the score of one impression: its hash as stored, or its id as the log has it; - reads it from "
            "standard input.",
        ),
    ] = None,
    row: Annotated[
        int | None, typer.Option("--row", min=0, help="Or of a row of the retrain's test, from 0 on.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Data root in which runs are looked for by id or day.")
    ] = None,
    other_root: Annotated[
        Path | None, typer.Option("--other-root", help="Data root of RUN_B, where that is another one.")
    ] = None,
    json_out: JsonOption = None,
    html_out: Annotated[
        Path | None, typer.Option("--html", help="Write the page of two retrains to this file.")
    ] = None,
) -> None:
    """Say why a retrain predicts otherwise than another one, or why an impression has its score."""
    if impression is not None or row is not None:
        if (impression is not None and row is not None) or run_b is not None or other_root or html_out:
            fail("an impression is that of one retrain: `ctr explain [RUN] --impression HASH`, or with --row N.")
        _explain_impression(run_a or "latest", impression, row, data_root or DEFAULT_ROOT, json_out)
        return
    if run_a is None or run_b is None:
        fail(
            "name two retrains: `ctr explain RUN_A RUN_B`; see docs/explain.md. Or an impression: "
            "`ctr explain --impression HASH`."
        )
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


def _explain_impression(
    run: str, impression: str | None, row: int | None, data_root: Path, json_out: Path | None
) -> None:
    from ctr_pipeline.commands.explain_impression import explain_impression
    from ctr_pipeline.commands.explain_impression_text import print_impression_score

    with user_errors():
        held(data_root)
        hashed = None if impression is None else _hash_of(impression)
        found = explain_impression(data_root.resolve(), hashed, row, run)
    write_json(found, json_out)
    print_impression_score(found, console())


def _hash_of(impression: str) -> str:
    """The stored hash of an impression that is named by it, or by its id."""
    from ctr_pipeline.privacy.identities import identity_hash
    from ctr_pipeline.sources.pseudonyms import PSEUDONYM_LENGTH

    if re.fullmatch(f"[0-9a-f]{{{PSEUDONYM_LENGTH}}}", impression):
        return impression
    return identity_hash(impression, None, "impression", hashing_key)
