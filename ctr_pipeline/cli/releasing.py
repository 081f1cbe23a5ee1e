"""`ctr promote`, `ctr rollback` and `ctr release`."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ctr_pipeline.cli.options import JsonOption, RootOption, console, held, user_errors, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from ctr_pipeline.commands.release import Releases

release_app = typer.Typer(no_args_is_help=True, help="Try a version beside the champion.")

VersionArgument = Annotated[
    str | None, typer.Argument(metavar="VERSION", help="Version in MLflow's registry; by default the challenger.")
]


def promote(
    data_root: RootOption,
    version: VersionArgument = None,
    despite: Annotated[
        str | None, typer.Option("--despite", help="Why it is promoted in spite of what speaks against it.")
    ] = None,
) -> None:
    """Make a version the champion; servers take it over within seconds.

    Shown beside the champion first. A broken bundle, or one of another key, is never promoted.
    """
    from ctr_pipeline.commands.release_text import print_comparison

    with _opened(data_root) as releases:
        comparison = releases.compare(version)
        print_comparison(comparison, console())
        releases.promote(comparison, despite, datetime.now(UTC))
    _print(f"version {comparison.candidate.version} is the champion")


def rollback(
    data_root: RootOption,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the version.")],
) -> None:
    """Make the version before the champion again; servers take it over within seconds."""
    with _opened(data_root) as releases:
        before, champion = releases.roll_back(reason, datetime.now(UTC))
    _print(f"version {before} is rolled back; version {champion} is the champion")


@release_app.command()
def status(data_root: RootOption, json_path: JsonOption = None) -> None:
    """Show champion, challenger and the version before, and the trial."""
    from ctr_pipeline.commands.release_text import print_status

    with _opened(data_root) as releases:
        found = releases.status()
    print_status(found, console())
    write_json(found.to_json(), json_path)


@release_app.command()
def shadow(data_root: RootOption, version: VersionArgument = None) -> None:
    """Have a version score every request, while the champion answers; differences are counted."""
    from ctr_pipeline.serving.release import TrialMode

    with _opened(data_root) as releases:
        trial = releases.start(TrialMode.SHADOW, version, None, datetime.now(UTC))
    _print(f"version {trial.version} scores every request beside the champion")


@release_app.command()
def canary(
    data_root: RootOption,
    version: VersionArgument = None,
    share: Annotated[
        float | None,
        typer.Option(
            "--share", min=0.0, max=0.5, help="Share of the users; by default the spec's serving.canary.share."
        ),
    ] = None,
) -> None:
    """Have a version answer a share of the users; beyond the limits of the spec it is rolled back by itself."""
    from ctr_pipeline.serving.release import TrialMode

    with _opened(data_root) as releases:
        trial = releases.start(TrialMode.CANARY, version, share, datetime.now(UTC))
    _print(f"version {trial.version} answers {trial.share:.2%} of the users")


@release_app.command()
def stop(
    data_root: RootOption, reason: Annotated[str, typer.Option("--reason", help="Why.")] = "stopped by hand"
) -> None:
    """End the trial: the champion answers everything."""
    with _opened(data_root) as releases:
        trial = releases.stop(reason, datetime.now(UTC))
    _print(f"the trial of version {trial.version} is ended")


@release_app.command()
def check(data_root: RootOption) -> None:
    """Compare what the canary's impressions led to with what was predicted now; beyond the limits it is rolled back."""
    from ctr_pipeline.commands.release_text import print_status

    with _opened(data_root) as releases:
        found = releases.check()
    print_status(found, console())


@contextmanager
def _opened(data_root: "Path") -> Iterator["Releases"]:
    """The releases of a data root; within it, errors that are for users end the command."""
    from ctr_pipeline.commands.release import Releases
    from ctr_pipeline.deployment.environment import process_environment

    with user_errors(), Releases.opened(held(data_root), process_environment()) as releases:
        yield releases


def _print(text: str) -> None:
    console().print(text, highlight=False, markup=False, soft_wrap=True)
