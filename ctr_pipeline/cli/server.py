"""`ctr serve`: the champion behind HTTP."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ctr_pipeline.cli.options import user_errors


def serve(
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Data root of the run; by default data/ads, without --bundle.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Folder of a bundle, in place of the champion.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
    workers: Annotated[int, typer.Option("--workers", min=1, max=256, help="Processes; one a core.")] = 1,
    most_bytes: Annotated[
        int | None, typer.Option("--body-bytes", min=1, help="Largest body of a request; by default 4 MiB.")
    ] = None,
    most_candidates: Annotated[
        int | None, typer.Option("--candidates", min=1, help="Most candidates of a request; by default 5,000.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option("--at-once", min=1, help="Most requests at once in a process; by default 64.")
    ] = None,
) -> None:
    """Serve the champion by HTTP until Ctrl-C or SIGTERM; see docs/serving.md.

    CTR_SERVE_TOKEN holds the token that requests must have; without it, nothing but 127.0.0.1 is listened on.
    """
    from ctr_pipeline.commands.serve import run_service, serve_settings
    from ctr_pipeline.deployment.environment import process_environment

    limits = {"body_bytes": most_bytes, "candidates": most_candidates, "at_once": at_once}
    with user_errors():
        root = data_root or (Path("data/ads") if bundle is None else None)
        settings = replace(
            serve_settings(root, bundle),
            workers=workers,
            limits={name: value for name, value in limits.items() if value is not None},
        )
        run_service(settings, host, port, process_environment(), Console().print)
