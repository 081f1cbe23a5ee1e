"""How logits become probabilities whose rates hold."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from ctr_pipeline.spec.variants import Variant, Variants


class CalibratorSection(Variant):
    """Base of the sections that name a calibrator."""


class Platt(CalibratorSection):
    """A slope and an offset for the logit of each task (Platt 1999)."""

    kind: Literal["platt"] = "platt"


class Isotonic(CalibratorSection):
    """A rising line through the observed rates of neighbouring scores, for each task."""

    kind: Literal["isotonic"] = "isotonic"
    min_positives: int = Field(
        default=200, gt=0, description="Positives that each knot of the line rests on, at least."
    )


CALIBRATORS: Variants[CalibratorSection] = Variants(CalibratorSection, Platt, Isotonic)
"""The kinds of calibrator; ``ctr_pipeline.calibration.register_calibrator`` adds to them."""

AnyCalibrator = Annotated[SerializeAsAny[CalibratorSection], BeforeValidator(CALIBRATORS.validate)]
"""Type of a field that holds one of :data:`CALIBRATORS`."""
