"""`ctr spec …`: work with spec files."""

import difflib
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ctr_pipeline.cli.options import spec_of
from ctr_pipeline.spec import spec_hash


def check(file: Annotated[Path, typer.Argument(help="Spec file to check.")]) -> None:
    """Check a spec file and print what it declares."""
    spec = spec_of(file)
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
            f"  label quality: each {spec.label_quality.key}, by its {', '.join(spec.label_quality.evaluated_tasks(spec.tasks))}; "
            f"weighting {spec.label_quality.weighting}",
            highlight=False,
        )


def modules(
    kinds: Annotated[list[str] | None, typer.Argument(help="Kinds of module; all when absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the modules of the ranker: fields, parameters, and cost measured on this machine."""
    from ctr_pipeline.commands.spec_modules import known_kinds, measured_modules, modules_json, print_modules

    known = known_kinds()
    for kind in kinds or ():
        if kind not in known:
            near = difflib.get_close_matches(kind, known, n=1)
            raise typer.BadParameter(
                f"{kind!r} is no module; there are {', '.join(sorted(known))}"
                + (f". Did you mean {near[0]!r}?" if near else "")
            )
    found = measured_modules(kinds or ())
    if as_json:
        typer.echo(json.dumps(modules_json(found), indent=1))
    else:
        print_modules(found, Console())


def preset(name: Annotated[str | None, typer.Argument(help="Name of the preset; all when absent.")] = None) -> None:
    """Print what `model: {preset: NAME}` stands for, as a section to copy into a spec and to change."""
    import yaml

    from ctr_pipeline.spec.presets import PRESETS

    if name is not None and name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        raise typer.BadParameter(
            f"{name!r} is no preset; there are {', '.join(PRESETS)}" + (f". Did you mean {near[0]!r}?" if near else "")
        )
    for found, (purpose, section) in PRESETS.items():
        if name in (None, found):
            typer.echo(f"# {found}: {purpose}")
            typer.echo(yaml.safe_dump({"model": dict(section)}, sort_keys=False, default_flow_style=None).rstrip())
