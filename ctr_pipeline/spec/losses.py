"""The training losses that a task may choose."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, SerializeAsAny

from ctr_pipeline.spec.variants import Variant, Variants


class LossSection(Variant):
    """Base of the sections that name a training loss."""


class BinaryCrossEntropy(LossSection):
    """Cross-entropy of a 0/1 outcome."""

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"


LOSSES: Variants[LossSection] = Variants(LossSection, BinaryCrossEntropy)
"""The kinds of loss; ``ctr_pipeline.losses.register_loss`` adds to them."""

AnyLoss = Annotated[SerializeAsAny[LossSection], BeforeValidator(LOSSES.validate)]
"""Type of a field that holds one of :data:`LOSSES`."""
