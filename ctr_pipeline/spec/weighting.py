"""Weights of the training rows: by position propensity, and by the plausibility of the labels."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import Name, Section
from ctr_pipeline.spec.tasks import Task


class Propensity(Section):
    """Weights that make production traffic resemble randomised traffic."""

    weighting: Literal["none", "ips"] = Field(
        default="none", description="`ips` multiplies the loss of a row by IPS(position, response)."
    )
    responses: list[Name] = Field(default=[], description="Tasks that get a table; all tasks when empty.")
    smoothing: float = Field(
        default=300.0, ge=0, description="Pseudo-impressions that pull each position's rate to the overall rate."
    )
    clip: tuple[float, float] = Field(default=(0.1, 10.0), description="Smallest and largest weight.")

    @model_validator(mode="after")
    def _clip_in_order(self) -> Self:
        if not 0 < self.clip[0] <= 1 <= self.clip[1]:
            raise ValueError(f"`clip` is [low, high] with 0 < low <= 1 <= high; found {list(self.clip)}")
        return self


class LabelQuality(Section):
    """Whose labels are evaluated, by the rate of their outcomes among the other keys, and what follows from it."""

    key: Name = Field(description="Name of the categorical feature that names who reports the outcomes.")
    tasks: list[Name] = Field(
        default=[], description="Tasks whose rates are evaluated; every task with a parent when empty."
    )
    min_trials: int = Field(
        default=10,
        gt=0,
        description="Parent outcomes (impressions, for a first step) below which a key is not evaluated.",
    )
    threshold: float = Field(default=2.5, gt=0, description="Largest plausible distance |z| from the other keys.")
    weighting: Literal["none", "down_weight"] = Field(
        default="none", description="`down_weight` multiplies the loss of a flagged key's rows by (threshold / z)²."
    )
    floor: float = Field(default=0.1, gt=0, le=1, description="Smallest weight of a flagged key.")
    max_flagged_share: float = Field(
        default=0.05, ge=0, le=1, description="Above this share of a task's outcomes or trials the check warns."
    )

    def evaluated_tasks(self, tasks: list[Task]) -> list[str]:
        """Names of the tasks whose labels are evaluated, in the order of ``tasks``."""
        return [task.name for task in tasks if (task.name in self.tasks if self.tasks else task.parent is not None)]
