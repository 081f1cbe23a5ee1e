"""The training losses that a task may choose."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from ctr_pipeline.spec.fields import DAY_US, Duration, format_duration
from ctr_pipeline.spec.variants import Variant, Variants

HOUR_US = DAY_US // 24


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


class DelayedFeedback(LossSection):
    """Base of the losses that learn from labels which are still open, too. Validation and test stay those of settled ones."""


class DfmDiscrete(DelayedFeedback):
    """A cure model: how likely the outcome is, and in which interval of delay it becomes known (after Chapelle, KDD 2014)."""

    kind: Literal["dfm_discrete"] = "dfm_discrete"
    edges: list[Duration] = Field(
        default=[hours * HOUR_US for hours in (1, 6, 24, 48, 72, 120, 168, 240, 336)],
        min_length=1,
        description="Ends of the intervals of delay since the impression, ascending.",
    )

    @field_validator("edges")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)) or value[0] <= 0:
            raise ValueError(
                f"the ends of the intervals rise from above 0; found {[format_duration(v) for v in value]}"
            )
        return value


class DfmWeibull(DelayedFeedback):
    """The same with Weibull-distributed delays."""

    kind: Literal["dfm_weibull"] = "dfm_weibull"


class Fsiw(DelayedFeedback):
    """Cross-entropy of what is known so far, weighted to that of the final label (Yasui et al., WWW 2020)."""

    kind: Literal["fsiw"] = "fsiw"


LOSSES: Variants[LossSection] = Variants(LossSection, BinaryCrossEntropy, Focal, DfmDiscrete, DfmWeibull, Fsiw)
"""The kinds of loss; ``ctr_pipeline.losses.register_loss`` adds to them."""

AnyLoss = Annotated[SerializeAsAny[LossSection], BeforeValidator(LOSSES.validate)]
"""Type of a field that holds one of :data:`LOSSES`."""
