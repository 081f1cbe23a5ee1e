"""`ctr serve`, `ctr snapshot`: the champion behind HTTP, and what it looks up of the past."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ctr_pipeline.cli.options import RootOption, day_of, held, user_errors


class Device(StrEnum):
    """What scores."""

    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """What matrix products are computed in."""

    BF16 = "bf16"
    FP32 = "fp32"


def serve(
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Data root of the run; by default data/ads, without --bundle.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Folder of a bundle, in place of the champion.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder of the snapshots of history features; by default that of the data root."),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option("--events", help="Folder of logs of events (JSON lines) that is followed, as for POST /events."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
    workers: Annotated[int, typer.Option("--workers", min=1, max=256, help="Processes; one a core.")] = 1,
    device: Annotated[Device, typer.Option("--device", help="`cuda` needs the package onnxruntime-gpu.")] = Device.CPU,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of matrix products on `cuda`; logits are always of 32 bits.")
    ] = Precision.BF16,
    batch_ms: Annotated[
        float, typer.Option("--batch-ms", min=0, max=100, help="On `cuda`, how long a request waits for others.")
    ] = 1.0,
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
        if device is Device.CUDA:
            run_on = {"device": device.value, "precision": precision.value, "delay": batch_ms / 1000}
            settings = replace(settings, device=run_on)
        if store is not None:
            settings = replace(settings, store=str(store.resolve()))
        if events is not None:
            settings = replace(settings, event_logs=str(events.resolve()))
        run_service(settings, host, port, process_environment(), Console().print)


def snapshot(
    data_root: RootOption = Path("data/ads"),
    day: Annotated[
        str | None,
        typer.Option(
            "--day", help="Day (UTC) of the requests that use it; by default the one after the last that was read."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the snapshots; by default that of the data root.")
    ] = None,
) -> None:
    """Make the history values of a day ready for servers; `ctr run` does it for the days after those that it reads."""
    from ctr_pipeline.commands.make_snapshot import snapshot_of_day

    wanted = day_of(day, "--day")
    with user_errors():
        made = snapshot_of_day(held(data_root), wanted, None if out is None else out.resolve())
    folder = out or data_root / "online"
    Console().print(
        f"Snapshot {made.id} of {made.day}: {made.keys:,} keys, {made.bytes / 2**20:.1f} MiB, in {folder}",
        highlight=False,
    )
