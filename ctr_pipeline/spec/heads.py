"""What the tasks of the ranker share and what each has of its own, as a spec names it."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from ctr_pipeline.spec.fields import Name, added_field
from ctr_pipeline.spec.variants import Variant, Variants

Widths = list[Annotated[int, Field(gt=0)]]


class HeadSection(Variant):
    """Base of the sections that name an architecture of the heads."""

    gate_on: Literal["parent"] | None = added_field(
        None, "`parent` multiplies what a task's head reads by gates that are computed from what its parent's reads."
    )
    stop_gradient: list[Name] = added_field(
        [], "Tasks whose loss does not reach what tasks share: only what they have of their own learns from it."
    )


class SharedBottom(HeadSection):
    """All tasks read the same hidden units (Caruana, 1997)."""

    kind: Literal["shared_bottom"] = "shared_bottom"


class TaskTowers(HeadSection):
    """Hidden layers of each task's own above the shared ones."""

    kind: Literal["task_towers"] = "task_towers"
    tower: Widths = Field(default=[64], min_length=1, description="Widths of each task's own hidden layers.")


class Mmoe(HeadSection):
    """Experts that all tasks read, mixed for each task by its own gate (Ma et al., KDD 2018)."""

    kind: Literal["mmoe"] = "mmoe"
    experts: int = Field(default=4, ge=2, le=64, description="Experts.")
    expert: Widths = Field(default=[64], min_length=1, description="Widths of the hidden layers of an expert.")
    tower: Widths = Field(default=[], description="Widths of each task's own hidden layers above its mixture.")


class Ple(HeadSection):
    """Progressive layered extraction: experts of each task beside shared ones (Tang et al., RecSys 2020)."""

    kind: Literal["ple"] = "ple"
    levels: int = Field(default=1, ge=1, le=4, description="Levels of experts; with 1 it is customised gate control.")
    shared_experts: int = Field(default=2, ge=1, le=64, description="Shared experts of a level.")
    task_experts: int = Field(default=1, ge=1, le=64, description="Experts of each task on a level.")
    expert: Widths = Field(default=[64], min_length=1, description="Widths of the hidden layers of an expert.")
    tower: Widths = Field(default=[], description="Widths of each task's own hidden layers above its mixture.")


class Aitm(HeadSection):
    """Towers along the funnel, each attending to what its parent's passes on (Xi et al., KDD 2021)."""

    kind: Literal["aitm"] = "aitm"
    tower: Widths = Field(default=[64], min_length=1, description="Widths of each task's own hidden layers.")


HEADS: Variants[HeadSection] = Variants(HeadSection, SharedBottom, TaskTowers, Mmoe, Ple, Aitm)
"""The architectures of the heads; ``ctr_pipeline.ranker.heads.register_head`` adds to them."""

AnyHead = Annotated[SerializeAsAny[HeadSection], BeforeValidator(HEADS.validate)]
"""Type of a field that holds one of :data:`HEADS`."""


def refuse_wrong_heads(section: HeadSection | None, tasks: Sequence[str], parents: Sequence[str | None]) -> None:
    """Raises ValueError where the section names tasks that there are not, or asks for what a funnel has only."""
    if section is None:
        return
    for name in section.stop_gradient:
        if name not in tasks:
            raise ValueError(
                f"`model.multi_task.stop_gradient` names {name!r}, which is no task; use one of {', '.join(tasks)}"
            )
    if tasks and set(section.stop_gradient) == set(tasks):
        raise ValueError(
            "`model.multi_task.stop_gradient` names every task: nothing would learn what they share; leave one out"
        )
    if section.gate_on == "parent" and not any(parents):
        raise ValueError(
            "`model.multi_task.gate_on` is parent, and no task has a `parent`: remove it, or declare the funnel"
        )
