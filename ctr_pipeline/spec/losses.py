"""The training losses that a task may choose."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from ctr_pipeline.spec.variants import Variant, Variants


class LossSection(Variant):
    """Base of the sections that name a training loss."""


class BinaryCrossEntropy(LossSection):
    """Cross-entropy of a 0/1 outcome."""

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"


class Focal(LossSection):
    """Cross-entropy that gives less weight to the rows that the model predicts well (Lin et al., ICCV 2017)."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(
        default=2.0, ge=0, le=10, description="A row counts (1 - p)^gamma, p the probability of its outcome."
    )
    alpha: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Weight of the positives; negatives have 1 - alpha. Without it both have 1.",
    )


LOSSES: Variants[LossSection] = Variants(LossSection, BinaryCrossEntropy, Focal)
"""The kinds of loss; ``ctr_pipeline.losses.register_loss`` adds to them."""

AnyLoss = Annotated[SerializeAsAny[LossSection], BeforeValidator(LOSSES.validate)]
"""Type of a field that holds one of :data:`LOSSES`."""
