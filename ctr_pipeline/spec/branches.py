"""Branches of the ranker: models of their own on shared inputs, whose logits are fused."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import Name, Section
from ctr_pipeline.spec.interactions import AnyInteraction


class Branch(Section):
    """One of several models on the same embeddings and numbers: hidden layers, interactions, and heads of its own."""

    name: Name = Field(description="Its name in reports.")
    hidden: list[Annotated[int, Field(gt=0)]] | None = Field(
        default=None, description="Widths of its hidden layers, none when empty; those of `model.hidden` when absent."
    )
    interactions: list[AnyInteraction] = Field(default=[], description="Its interactions beside its hidden layers.")

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if self.hidden == [] and not self.interactions:
            raise ValueError(f"branch {self.name!r} has neither hidden layers nor interactions: give it one of them")
        return self


class Fusion(Section):
    """How the branches' logits become one."""

    kind: Literal["average", "gated", "logistic"] = Field(
        default="average",
        description="The mean; a mean with weights that a gate computes for each row; or a weight for each branch and task.",
    )
    branch_dropout: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="Probability that a branch is left out of a training row's logits, so that each learns to stand alone.",
    )
    stop: Literal["none", "drop"] = Field(
        default="none", description="What happens to a branch that is weak on validation: nothing, or it is left out."
    )
    margin: float = Field(
        default=0.01, ge=0, description="Normalised entropy above that of the best branch from which one is weak."
    )
