"""`ctr init`, `ctr run`, `ctr ui`: start a project, bring it up to date, look at it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ctr_pipeline.cli.options import (
    REFUSED_CODE,
    DataRootOption,
    InputOption,
    SpecOption,
    bound,
    console,
    day_of,
    fail,
    held,
    is_writable,
    spec_of,
    user_errors,
    write_json,
)
from ctr_pipeline.engines.base import EngineName


def init(
    name: Annotated[str, typer.Argument(help="A bundled spec, such as ads.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; by default NAME.yaml.")] = None,
) -> None:
    """Copy a bundled spec into this folder, to run it or to start your own from it."""
    from ctr_pipeline.commands.init import copy_spec

    with user_errors():
        path = copy_spec(name, out or Path(f"{name}.yaml"))
    Console().print(f"{path} is written. Next: ctr run --spec {path}", highlight=False, soft_wrap=True)


def run(
    spec: SpecOption,
    inputs: InputOption = None,
    data_root: DataRootOption = None,
    first: Annotated[str | None, typer.Option("--from", help="First day, YYYY-MM-DD.")] = None,
    last: Annotated[
        str | None, typer.Option("--to", help="Last day, YYYY-MM-DD; the model is made as of its end.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the run's report here; see docs/report.md.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option("--engine", help="What computes labels and history; the result is the same.")
    ] = "duckdb",
) -> None:
    """Run the whole pipeline in this process, doing only what is missing.

    Exit codes: 0, everything is up to date; 2, the spec, the log or a step was refused; 3, a model was made that must not
    be served; 130, the run was interrupted.
    """
    if json_out is not None and (json_out.is_dir() or not is_writable(json_out)):
        fail(f"--json {json_out}: cannot be written. Name a file in a folder that can.")
    from ctr_pipeline.commands.report import FAILED, REFUSED
    from ctr_pipeline.commands.report_text import print_reading, print_report
    from ctr_pipeline.commands.run import run_and_report
    from ctr_pipeline.deployment.environment import process_environment
    from ctr_pipeline.deployment.failed_trainings import failure_text
    from ctr_pipeline.engines import require_engine

    begin, end = day_of(first, "--from"), day_of(last, "--to")
    with user_errors():
        require_engine(engine, process_environment().variables)
        deployment, log_last = bound(spec, inputs or [], data_root, begin)
        deployment = replace(deployment, engine=engine)
        begin, end = begin or deployment.first_day, end or log_last
        if not deployment.first_day <= begin <= end:
            fail(f"--from {begin} --to {end}: expected days in order, from {deployment.first_day} on.")
        if end > log_last:
            fail(f"--to {end} is after the last day of the log, {log_last}. Choose an earlier day.")
        report = run_and_report(deployment, begin, end)
    write_json(report, json_out)
    outcome = report["outcome"]
    if outcome["status"] == FAILED:
        # What was left out, or set aside, is often why. A table that was not read has no rows.
        read = {name: rows for name, rows in report["rows"].items() if rows["in"]}
        print_reading(report | {"rows": read}, console())
        failure = report["training_failure"]
        fail(f"ranker: {failure_text(failure)}" if failure else outcome["reason"])
    print_report(report, console())
    if outcome["status"] == REFUSED:
        fail(outcome["reason"], code=REFUSED_CODE)


def ui(
    spec: Annotated[
        Path | None, typer.Option("--spec", help="Spec file (YAML); by default that of the last run in --data-root.")
    ] = None,
    inputs: InputOption = None,
    data_root: DataRootOption = None,
    port: Annotated[int, typer.Option("--port", help="Port of the Dagster page.")] = 3000,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Port of the MLflow page.")] = 5000,
) -> None:
    """Open the Dagster page, its daemon and the MLflow page on 127.0.0.1, until Ctrl-C."""
    from ctr_pipeline.commands.pages import serve_pages
    from ctr_pipeline.deployment.binding import reopen

    with user_errors():
        if spec is None:
            if data_root is None:
                fail("name a spec with --spec, or the data root of an earlier run with --data-root.")
            deployment = held(data_root)
        else:
            # Without --input, a data root is opened as the last run left it.
            last_run = None if inputs else reopen(spec_of(spec), spec, data_root)
            deployment = last_run or bound(spec, inputs or [], data_root)[0]
        deployment.save()
        serve_pages(deployment, port, mlflow_port, Console())
