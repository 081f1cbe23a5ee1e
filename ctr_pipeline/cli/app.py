"""`ctr …`: run the pipeline, check a spec, simulate logs, open the pages, read a report."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from ctr_pipeline.engines.base import EngineName
from ctr_pipeline.errors import UserError
from ctr_pipeline.spec import Spec, SpecError, load_spec, spec_hash
from ctr_pipeline.spec.extensions import ExtensionError, load_extensions

if TYPE_CHECKING:
    from ctr_pipeline.deployment.settings import PipelineSettings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
spec_app = typer.Typer(no_args_is_help=True, help="Work with spec files.")
app.add_typer(spec_app, name="spec")

SpecOption = Annotated[Path, typer.Option("--spec", help="Spec file (YAML); see docs/spec.md.")]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", help="Log file, folder or glob instead of the spec's; NAME=PATH for the event log NAME."),
]
DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Folder for everything made; by default data/<name of the spec>.")
]
RootOption = Annotated[Path, typer.Option("--data-root", help="Data root of the run.")]


def main() -> None:
    """Entry point of the ``ctr`` command."""
    # A stopped service or a closed terminal ends as Ctrl-C does: children are stopped, MLflow runs are closed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    app()


@app.callback(help=__doc__)
def start() -> None:
    """Runs before every command: specs may name what other installed packages add."""
    try:
        load_extensions()
    except ExtensionError as error:
        _fail(str(error))


@app.command()
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
    """Run the whole pipeline in this process, doing only what is missing."""
    if json_out is not None and (json_out.is_dir() or not _is_writable(json_out)):
        _fail(f"--json {json_out}: cannot be written. Name a file in a folder that can.")
    with _plain_errors():
        report = _run(spec, inputs or [], data_root, _day(first, "--from"), _day(last, "--to"), engine)
    _write_json(report, json_out)
    from ctr_pipeline.commands.report import print_report

    print_report(report, _console())


@spec_app.command("check")
def spec_check(file: Annotated[Path, typer.Argument(help="Spec file to check.")]) -> None:
    """Check a spec file and say what it declares."""
    spec = _spec(file)
    console = Console()
    console.print(f"[bold]{spec.name}[/] ({file}) is valid. Hash {spec_hash(spec)}.", highlight=False)
    features = spec.features
    console.print(
        f"  features: {len(features.dense)} dense, {len(features.categorical)} categorical, "
        f"{len(features.contextual)} contextual, {len(features.history)} history",
        highlight=False,
    )
    for task in spec.tasks:
        parent = f" after {task.parent}" if task.parent else ""
        console.print(
            f"  task: {task.name}{parent}, settled {spec.maturity(task.name) / 86.4e9:g} d after the impression"
        )
    if spec.label_quality is not None:
        console.print(
            f"  label quality: each {spec.label_quality.key}, by its {', '.join(spec.label_quality.judged(spec.tasks))}; "
            f"weighting {spec.label_quality.weighting}",
            highlight=False,
        )


@app.command()
def simulate(
    spec: SpecOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the simulated logs.")],
    days: Annotated[
        int | None, typer.Option("--days", min=1, help="Number of days; by default all of the spec's.")
    ] = None,
) -> None:
    """Write the simulated logs of a spec as Parquet files."""
    from datetime import timedelta

    from rich.progress import Progress

    from ctr_pipeline.simulator import write_days

    settings = _spec(spec)
    simulator = settings.source.simulator
    if simulator is None:
        _fail(f"{spec}: source.simulator is absent, so there is nothing to simulate. Use specs/ads.yaml.")
    count = min(days or simulator.days, simulator.days)
    wanted = [simulator.first_day + timedelta(days=n) for n in range(count)]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("Simulating", total=count)
        write_days(simulator, settings.seed, wanted, out, progress=lambda _: progress.advance(bar))
    Console().print(f"{count} days of impressions and events are in {out}", highlight=False)


@app.command()
def ui(
    spec: SpecOption = Path("specs/ads.yaml"),
    inputs: InputOption = None,
    data_root: DataRootOption = None,
    port: Annotated[int, typer.Option("--port", help="Port of the Dagster page.")] = 3000,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Port of the MLflow page.")] = 5000,
) -> None:
    """Open the Dagster page, its daemon and the MLflow page on 127.0.0.1, until Ctrl-C."""
    from ctr_pipeline.commands.pages import serve_pages
    from ctr_pipeline.commands.run import PipelineError
    from ctr_pipeline.deployment.binding import reopen

    try:
        # Without --input, a data root is opened as the last run left it.
        held = None if inputs else reopen(_spec(spec), spec, data_root)
        settings = held or _settings(spec, inputs or [], data_root)[0]
        settings.save()
        serve_pages(settings, port, mlflow_port, Console())
    except (PipelineError, SpecError) as error:
        _fail(str(error))


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Report file, MLflow run id, day (YYYY-MM-DD) or `latest`.")],
    data_root: RootOption = Path("data/ads"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the documented JSON instead.")] = False,
) -> None:
    """Show what a run did and how good its model is."""
    from ctr_pipeline.commands.report import ReportError, find_report, print_report

    try:
        found = find_report(run, data_root)
    except ReportError as error:
        _fail(str(error))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        print_report(found, _console())


@app.command()
def labels(
    data_root: RootOption = Path("data/ads"),
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Day at whose end (UTC) the labels are wanted; by default the newest.")
    ] = None,
    impression: Annotated[
        str | None,
        typer.Option("--impression", help="Id of an impression, as the log has it; - reads it from standard input."),
    ] = None,
    impression_hash: Annotated[str | None, typer.Option("--impression-hash", help="Or its hash, as stored.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write everything here; see docs/labels.md.")] = None,
) -> None:
    """Show what was believed of the outcomes on a day, of all impressions or of one."""
    from ctr_pipeline.commands import label_history as beliefs
    from ctr_pipeline.privacy.identities import identity_hash

    day = _day(as_of, "--as-of")
    with _plain_errors():
        settings = _held(data_root)
        if impression is None and impression_hash is None:
            found = beliefs.label_overview(settings, day)
        else:
            hashed = identity_hash(impression, impression_hash, "impression", os.environ)
            found = beliefs.impression_beliefs(settings, hashed, day)
    _write_json(found, json_out)
    (beliefs.print_beliefs if "impression" in found else beliefs.print_overview)(found, _console())


@app.command()
def repeat(
    run: Annotated[str, typer.Argument(help="MLflow run id, day (YYYY-MM-DD) or `latest`.")],
    data_root: RootOption = Path("data/ads"),
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the comparison here.")] = None,
) -> None:
    """Train a recorded run again from its table versions, and say whether every bit is the same."""
    from ctr_pipeline.commands.reproduce import print_repetition, repeat_run

    with _plain_errors():
        found = repeat_run(_held(data_root), run)
    _write_json(found, json_out)
    print_repetition(found, _console())
    if not found["identical"]:
        raise typer.Exit(1)


@app.command()
def forget(
    data_root: RootOption = Path("data/ads"),
    user: Annotated[
        str | None, typer.Option("--user", help="Id of a user, as the log has it; - reads it from standard input.")
    ] = None,
    user_hash: Annotated[str | None, typer.Option("--user-hash", help="Or its hash, as stored.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write what was removed here.")] = None,
) -> None:
    """Remove a user from tables, datasets and vocabularies for good, and leave them out from now on."""
    from ctr_pipeline.commands.forget import forget_user, print_forgotten
    from ctr_pipeline.privacy.identities import identity_hash

    with _plain_errors():
        settings = _held(data_root)
        found = forget_user(settings, identity_hash(user, user_hash, "user", os.environ), datetime.now(UTC).date())
    _write_json(found, json_out)
    print_forgotten(found, _console())
    if found["left"]:
        raise typer.Exit(1)


@app.command()
def truth(
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
    json_out: Annotated[Path | None, typer.Option("--json", help="Write everything here; see docs/truth.md.")] = None,
) -> None:
    """Show how good a model could be in the simulated world, and how close a model comes."""
    from ctr_pipeline.commands import oracle as known

    if _spec(spec).source.simulator is None:
        _fail(f"{spec}: source.simulator is absent, so the truth is not known. Use specs/ads.yaml.")
    settings, _ = _settings(spec, [], data_root)
    begin, end = _day(first, "--from"), _day(last, "--to")
    with _plain_errors():
        scored = known.read_scores(scores) if scores else known.latest_test_scores(settings)
        report = known.truth_of(settings, begin, end, scored, os.environ, Console(stderr=True).print)
    _write_json(report, json_out)
    known.print_truth(report, _console())


def _run(
    spec_path: Path,
    inputs: Sequence[str],
    data_root: Path | None,
    first: date | None,
    last: date | None,
    engine: EngineName,
) -> dict[str, object]:
    from ctr_pipeline.commands.run import run_and_report
    from ctr_pipeline.engines.factory import require_engine

    require_engine(engine, os.environ)
    settings, log_last = _settings(spec_path, inputs, data_root, first)
    settings = replace(settings, engine=engine)
    first, last = first or settings.first_day, last or log_last
    if not settings.first_day <= first <= last:
        _fail(f"--from {first} --to {last}: expected days in order, from {settings.first_day} on.")
    if last > log_last:
        _fail(f"--to {last} is after the last day of the log, {log_last}. Choose an earlier day.")
    return run_and_report(settings, first, last)


def _settings(
    spec_path: Path, inputs: Sequence[str], data_root: Path | None, start: date | None = None
) -> "tuple[PipelineSettings, date]":
    """The deployment that the options describe, and the last day of its log."""
    from ctr_pipeline.deployment.binding import bind

    spec = _spec(spec_path)
    with _plain_errors():
        bound = bind(spec, spec_path, inputs, data_root, start)
    return bound


def _held(data_root: Path) -> "PipelineSettings":
    """The deployment that a data root holds."""
    from ctr_pipeline.deployment.settings import PipelineSettings

    return PipelineSettings.load(data_root.resolve())


def _is_writable(path: Path) -> bool:
    folder = path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())
    return os.access(folder, os.W_OK)


def _console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 130))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Within it, an error class of the project, which is written for users, ends the command with its message."""
    try:
        yield
    except UserError as error:
        _fail(str(error))


def _write_json(content: Mapping[str, object], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _spec(path: Path) -> Spec:
    try:
        return load_spec(path)
    except SpecError as error:
        _fail(str(error))


def _day(text: str | None, option: str) -> date | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        _fail(f"{option} {text!r}: expected a day such as 2026-01-31.")


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print("[bold red]Error:[/] ", end="", highlight=False)
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2)
