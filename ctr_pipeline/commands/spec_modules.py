"""`ctr spec modules`: the registered modules of the ranker."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ctr_pipeline.ranker.module_costs import ModuleCost


def measured_modules(kinds: Iterable[str] = ()) -> "Iterator[ModuleCost]":
    """Each registered module with its fields, parameters and measured cost.

    Args:
        kinds: Those that are wanted; all when empty.
    """
    from ctr_pipeline.ranker.module_costs import module_costs

    wanted = frozenset(kinds)
    return module_costs((lambda kind: kind in wanted) if wanted else lambda _: True)


def known_kinds() -> set[str]:
    """The kinds of all registered modules."""
    from ctr_pipeline.spec.heads import HEADS
    from ctr_pipeline.spec.interactions import INTERACTIONS
    from ctr_pipeline.spec.sequence_modules import SEQUENCES

    return {*INTERACTIONS.sections, *SEQUENCES.sections, *HEADS.sections}


def modules_json(modules: "Iterable[ModuleCost]") -> list[dict[str, Any]]:
    """The modules as JSON holds them."""
    return [asdict(module) for module in modules]


def print_modules(modules: "Iterable[ModuleCost]", console: Console) -> None:
    """Prints a table of all modules, then the fields of each."""
    found = list(modules)
    table = Table("kind", "parameters", "training", "scoring")
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    section = ""
    for module in found:
        if module.section != section:
            section = module.section
            table.add_section()
            table.add_row(f"[bold]{section}[/]")
        table.add_row(module.kind, f"{module.parameters:,}", f"{module.training:.1f}", f"{module.scoring:.1f}")
    console.print(table)
    console.print(
        "Parameters and cost with the defaults, interactions on 100 numbers and 30 embeddings of width 16, sequences on lists\n"
        "of 50 places of width 16, heads on 128 hidden units and three tasks. Cost in processor seconds a million rows on one thread: a training step (forward and backward)\n"
        "and scoring, of the module alone.",
        highlight=False,
        soft_wrap=True,
    )
    for module in found:
        console.print(f"\n[bold]{module.kind}[/]: {module.meaning}", highlight=False, soft_wrap=True)
        for field in module.fields:
            console.print(
                f"  {field['name']} = {field['default']!r}: {field['meaning']}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        if not module.fields:
            console.print("  no fields", highlight=False)
