"""What the labels of a task are and what training minimises for it."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from ctr_pipeline.spec.losses import AnyLoss, BinaryCrossEntropy
from ctr_pipeline.spec.variants import Variant, Variants


class ObjectiveSection(Variant):
    """Base of the sections that describe an objective."""


class Binary(ObjectiveSection):
    """The probability that the outcome happens."""

    kind: Literal["binary"] = "binary"
    loss: AnyLoss = Field(default=BinaryCrossEntropy(), description="Loss that training minimises.")


OBJECTIVES: Variants[ObjectiveSection] = Variants(ObjectiveSection, Binary)
"""The kinds of objective; ``ctr_pipeline.losses.register_objective`` adds to them."""

AnyObjective = Annotated[SerializeAsAny[ObjectiveSection], BeforeValidator(OBJECTIVES.validate)]
"""Type of a field that holds one of :data:`OBJECTIVES`."""
