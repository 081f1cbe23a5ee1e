"""`ctr report`, `ctr why`, `ctr reproduce`, `ctr oracle`: how good a model is, what broke it, whether it is reproducible, how good it could be."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ctr_pipeline.cli.options import (
    DataRootOption,
    JsonOption,
    RootOption,
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


def report(
    run: Annotated[str, typer.Argument(help="Report file, MLflow run id, day (YYYY-MM-DD) or `latest`.")],
    data_root: RootOption = Path("data/ads"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the documented JSON instead.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file too.")] = None,
) -> None:
    """Show what a run did and how good its model is."""
    from ctr_pipeline.commands.report import find_report, write_page
    from ctr_pipeline.commands.report_text import print_report

    with user_errors():
        if html is not None and not is_writable(html):
            fail(f"--html {html}: the file cannot be written. Name another.")
        found = find_report(run, data_root)
    if html is not None:
        write_page(found, html)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        print_report(found, console())


def why(
    run: Annotated[
        str,
        typer.Argument(
            help="MLflow run id, day (YYYY-MM-DD), `latest`, or a folder: of a run, of a kept failed training, of a failed step."
        ),
    ],
    data_root: RootOption = Path("data/ads"),
    replay: Annotated[
        bool, typer.Option("--replay", help="Train again for some hundred steps with one remedy at a time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the documented JSON instead.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file too.")] = None,
) -> None:
    """Say what may have broken a training: ranked causes with evidence for and against, and the smallest fix."""
    from ctr_pipeline.commands.why import explain
    from ctr_pipeline.commands.why_page import why_page
    from ctr_pipeline.commands.why_text import print_why

    with user_errors():
        if html is not None and not is_writable(html):
            fail(f"--html {html}: the file cannot be written. Name another.")
        found = explain(run, data_root, try_fixes=replay, progress=Console(stderr=True).print)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(why_page(found), encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        print_why(found, console())


def calibrate_health(
    data_root: RootOption = Path("data/ads"),
    day: Annotated[
        str | None, typer.Option(help="Retrain whose job is run, YYYY-MM-DD; by default the newest.")
    ] = None,
    runs: Annotated[int, typer.Option(min=20, help="Healthy runs.")] = 20,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of each run; by default all of them.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Most false warnings of each detector by 10,000 steps; by default the smallest that the runs can show."
        ),
    ] = None,
    json_out: JsonOption = None,
) -> None:
    """Take the limits of gradient health from healthy runs of the same model, in place of rules of thumb."""
    from ctr_pipeline.commands.calibrate_health import calibrate
    from ctr_pipeline.commands.calibrate_health_text import print_limits

    if budget is not None and not budget > 0:
        fail("--budget must be above 0.")
    if day is not None:
        day_of(day, "--day")
    with user_errors():
        progress = Console(stderr=True)
        found = calibrate(
            held(data_root), day, runs=runs, epochs=epochs, budget=budget,
            progress=lambda line: progress.print(line, style="dim"),
        )  # fmt: skip
    write_json(found, json_out)
    print_limits(found, console())


def controls(
    data_root: RootOption = Path("data/ads"),
    day: Annotated[
        str | None, typer.Option(help="Retrain whose model is compared, YYYY-MM-DD; by default the newest.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of each model.")] = 1,
    task: Annotated[list[str] | None, typer.Option(help="Task that is compared; repeat it. By default all.")] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="Another kind of model.multi_task to train and compare; repeat it.")
    ] = None,
    json_out: JsonOption = None,
) -> None:
    """Train a single-task control of each task and compare the model of all tasks with it."""
    from ctr_pipeline.commands.controls import compare_tasks
    from ctr_pipeline.commands.controls_text import print_comparisons
    from ctr_pipeline.spec.heads import HEADS

    if day is not None:
        day_of(day, "--day")
    known = HEADS.sections
    for kind in also or ():
        if kind not in known:
            fail(f"--also {kind}: no kind of model.multi_task. Use one of {', '.join(sorted(known))}.")
    with user_errors():
        progress = Console(stderr=True)
        found = compare_tasks(
            held(data_root), day, seeds=seeds, tasks=task or (), also=also or (),
            progress=lambda line: progress.print(line, style="dim"),
        )  # fmt: skip
    write_json(found, json_out)
    print_comparisons(found, console())


def ablate(
    data_root: RootOption = Path("data/ads"),
    day: Annotated[
        str | None, typer.Option(help="Retrain whose model is looked at, YYYY-MM-DD; by default the newest.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of each model.")] = 3,
    without: Annotated[
        list[str] | None, typer.Option(help="Part that is left out; repeat it. By default each one of the model's.")
    ] = None,
    json_out: JsonOption = None,
) -> None:
    """Train the model without each of its parts in turn, and show what each part is worth."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ctr_pipeline.commands.ablate import ablate as ablated
    from ctr_pipeline.commands.ablate_text import print_ablation

    if day is not None:
        day_of(day, "--day")
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with user_errors(), Progress(*columns, console=Console(stderr=True)) as bar:
        shown = bar.add_task("", total=None)
        found = ablated(
            held(data_root), day, seeds=seeds, only=without or (),
            progress=lambda done, of, what: bar.update(shown, completed=done, total=of, description=what),
        )  # fmt: skip
    write_json(found, json_out)
    print_ablation(found, console())


def reproduce(
    run: Annotated[str, typer.Argument(help="MLflow run id, day (YYYY-MM-DD) or `latest`.")],
    data_root: RootOption = Path("data/ads"),
    json_out: JsonOption = None,
) -> None:
    """Train a recorded run again from its table versions, and compare every bit."""
    from ctr_pipeline.commands.reproduce import reproduce_run
    from ctr_pipeline.commands.reproduce_text import print_reproduction

    with user_errors():
        found = reproduce_run(held(data_root), run)
    write_json(found, json_out)
    print_reproduction(found, console())
    if not found["identical"]:
        raise typer.Exit(1)


def oracle(
    spec: SpecOption,
    data_root: DataRootOption = None,
    first: Annotated[str | None, typer.Option("--from", help="First day, YYYY-MM-DD.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day, YYYY-MM-DD.")] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            help="Parquet or CSV with impression_id and score (probability of a click); "
            "by default the test rows of the newest retrain.",
        ),
    ] = None,
    json_out: JsonOption = None,
) -> None:
    """Show how good a model could be in the simulated marketplace, and how close a model comes."""
    from ctr_pipeline.commands.oracle import latest_test_scores, oracle_report, read_scores
    from ctr_pipeline.commands.oracle_text import print_oracle
    from ctr_pipeline.deployment.environment import process_environment

    if spec_of(spec).source.simulator is None:
        fail(f"{spec}: source.simulator is absent, so the truth is not known. Use the bundled spec ads.")
    deployment, _ = bound(spec, [], data_root)
    begin, end = day_of(first, "--from"), day_of(last, "--to")
    with user_errors():
        scored = read_scores(scores) if scores else latest_test_scores(deployment)
        progress = Console(stderr=True).print
        found = oracle_report(deployment, begin, end, scored, process_environment(), progress)
    write_json(found, json_out)
    print_oracle(found, console())
