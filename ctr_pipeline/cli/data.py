"""`ctr simulate`, `ctr labels`, `ctr forget`: logs, labels, users."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ctr_pipeline.cli.options import (
    JsonOption,
    RootOption,
    SpecOption,
    console,
    day_of,
    fail,
    held,
    spec_of,
    user_errors,
    write_json,
)

if TYPE_CHECKING:
    from ctr_pipeline.sources import Pseudonymiser


def simulate(
    spec: SpecOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the simulated logs.")],
    days: Annotated[
        int | None, typer.Option("--days", min=1, help="Number of days; by default all of the spec's.")
    ] = None,
) -> None:
    """Write the simulated logs of a spec as Parquet files."""
    from rich.progress import Progress

    from ctr_pipeline.simulator import write_days

    declared = spec_of(spec)
    simulator = declared.source.simulator
    if simulator is None:
        fail(f"{spec}: source.simulator is absent, so there is nothing to simulate. Use the bundled spec ads.")
    count = min(days or simulator.days, simulator.days)
    wanted = [simulator.first_day + timedelta(days=n) for n in range(count)]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("Simulating", total=count)
        write_days(simulator, declared.seed, wanted, out, progress=lambda _: progress.advance(bar))
    Console().print(f"{count} days of impressions and events are in {out}", highlight=False)


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
    json_out: JsonOption = None,
) -> None:
    """Show the labels as of a day, of all impressions or of one, and which table version held them."""
    from ctr_pipeline.commands.label_history import impression_history, label_overview
    from ctr_pipeline.commands.label_history_text import print_impression, print_overview
    from ctr_pipeline.privacy.identities import identity_hash

    day = day_of(as_of, "--as-of")
    with user_errors():
        deployment = held(data_root)
        if impression is None and impression_hash is None:
            found, show = label_overview(deployment, day), print_overview
        else:
            hashed = identity_hash(impression, impression_hash, "impression", hashing_key)
            found, show = impression_history(deployment, hashed, day), print_impression
    write_json(found, json_out)
    show(found, console())


def forget(
    data_root: RootOption = Path("data/ads"),
    user: Annotated[
        str | None, typer.Option("--user", help="Id of a user, as the log has it; - reads it from standard input.")
    ] = None,
    user_hash: Annotated[str | None, typer.Option("--user-hash", help="Or its hash, as stored.")] = None,
    json_out: JsonOption = None,
) -> None:
    """Remove a user from tables, datasets and vocabularies for good, and leave them out from now on."""
    from ctr_pipeline.commands.forget import forget_user
    from ctr_pipeline.commands.forget_text import print_forgotten
    from ctr_pipeline.privacy.identities import identity_hash

    with user_errors():
        deployment = held(data_root)
        hashed = identity_hash(user, user_hash, "user", hashing_key)
        found = forget_user(deployment, hashed, datetime.now(UTC).date())
    write_json(found, json_out)
    print_forgotten(found, console())
    if found["remaining_files"]:
        raise typer.Exit(1)


def hashing_key() -> "Pseudonymiser":
    """What hashes ids with the key of the deployment."""
    from ctr_pipeline.deployment.environment import process_environment
    from ctr_pipeline.deployment.key import existing_pseudonymiser

    return existing_pseudonymiser(process_environment())
