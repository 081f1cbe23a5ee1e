"""How logits become probabilities whose rates hold."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from ctr_pipeline.spec.fields import added_field
from ctr_pipeline.spec.variants import Variant, Variants


class CalibratorSection(Variant):
    """Base of the sections that name a calibrator."""


class Identity(CalibratorSection):
    """The logits as they are."""

    kind: Literal["identity"] = "identity"


class Platt(CalibratorSection):
    """A slope and an offset for the logit of each task (Platt 1999), drawn towards 1 and 0."""

    kind: Literal["platt"] = "platt"
    prior: float = added_field(
        1.0,
        "Weight of the prior: normal, slope 1 ± 0.15 and offset 0 ± 0.3 at the middle of the rows; 0 for none.",
        ge=0,
    )


class Beta(CalibratorSection):
    """a·log p - b·log(1 - p) + c for the probability p of each task (Kull et al., AISTATS 2017), drawn to the identity."""

    kind: Literal["beta"] = "beta"
    prior: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the prior: normal, a and b 1 ± 0.15 and an offset of 0 ± 0.3 at the middle of the rows.",
    )


class Isotonic(CalibratorSection):
    """A rising line through the observed rates of neighbouring scores, for each task."""

    kind: Literal["isotonic"] = "isotonic"
    min_positives: int = Field(
        default=200, gt=0, description="Positives that each knot of the line rests on, at least."
    )


class CrossValidated(CalibratorSection):
    """For each task the calibrator of least log loss on rows that it was not fitted on."""

    kind: Literal["cross_validated"] = "cross_validated"
    candidates: list["AnyCalibrator"] | None = Field(
        default=None, min_length=1, description="What to choose from, of equally good ones the first; all when absent."
    )
    folds: int = Field(default=5, ge=2, le=20, description="Parts of the slice, each left out once.")

    @property
    def choices(self) -> "list[CalibratorSection]":
        """The calibrators to choose from, simple ones first."""
        return self.candidates or [Identity(), Platt(), Beta(), Isotonic()]


CALIBRATORS: Variants[CalibratorSection] = Variants(CalibratorSection, CrossValidated, Identity, Platt, Beta, Isotonic)
"""The kinds of calibrator; ``ctr_pipeline.calibration.register_calibrator`` adds to them."""

AnyCalibrator = Annotated[SerializeAsAny[CalibratorSection], BeforeValidator(CALIBRATORS.validate)]
"""Type of a field that holds one of :data:`CALIBRATORS`."""

CrossValidated.model_rebuild()
