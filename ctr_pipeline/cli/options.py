"""Options, messages and look-ups that the commands share."""

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from ctr_pipeline.errors import UserError
from ctr_pipeline.spec import Spec, SpecError, load_spec

if TYPE_CHECKING:
    from ctr_pipeline.deployment.deployment import Deployment

SpecOption = Annotated[Path, typer.Option("--spec", help="Spec file (YAML); see docs/spec.md.")]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Log file, folder, glob or address instead of the spec's; NAME=PATH for the event log or side table NAME.",
    ),
]
DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Folder for everything made; by default data/<name of the spec>.")
]
RootOption = Annotated[Path, typer.Option("--data-root", help="Data root of the run.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]


REFUSED_CODE = 3
"""Exit code of a run that made a model which must not be served."""

INTERRUPTED_CODE = 128 + signal.SIGINT
"""Exit code of a command that was told to stop, as shells have it."""


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the command with a message for the user and an exit code."""
    Console(stderr=True).print("[bold red]Error:[/] ", end="", highlight=False)
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def user_errors() -> Iterator[None]:
    """Within it, an error that is written for users, or an interruption, ends the command with a message."""
    try:
        yield
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        message = "interrupted. What was finished is kept; the same command goes on from there."
        fail(message, code=INTERRUPTED_CODE)


def spec_of(path: Path) -> Spec:
    """The spec in a file, or the end of the command."""
    try:
        return load_spec(path)
    except SpecError as error:
        fail(str(error))


def bound(
    spec_path: Path, inputs: Sequence[str], data_root: Path | None, start: date | None = None
) -> "tuple[Deployment, date]":
    """The deployment that the options describe, and the last day of its log."""
    from ctr_pipeline.deployment.binding import bind

    spec = spec_of(spec_path)
    with user_errors():
        deployment = bind(spec, spec_path, inputs, data_root, start)
    return deployment


def held(data_root: Path) -> "Deployment":
    """The deployment that a data root holds."""
    from ctr_pipeline.deployment.deployment import Deployment

    return Deployment.load(data_root.resolve())


def day_of(text: str | None, option: str) -> date | None:
    """The day that an option names; None without one."""
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        fail(f"{option} {text!r}: expected a day such as 2026-01-31.")


def console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, 130))


def write_json(content: Mapping[str, object], path: Path | None) -> None:
    """Writes what a command found to a file, where one is named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def is_writable(path: Path) -> bool:
    """Whether a file of that name could be written."""
    if path.exists():
        return path.is_file() and os.access(path, os.W_OK)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return folder.is_dir() and os.access(folder, os.W_OK)
