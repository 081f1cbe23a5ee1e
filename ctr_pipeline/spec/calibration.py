"""How logits become probabilities whose rates hold."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, SerializeAsAny

from ctr_pipeline.spec.variants import Variant, Variants


class CalibratorSection(Variant):
    """Base of the sections that name a calibrator."""


class Platt(CalibratorSection):
    """A slope and an offset for the logit of each task (Platt 1999)."""

    kind: Literal["platt"] = "platt"


CALIBRATORS: Variants[CalibratorSection] = Variants(CalibratorSection, Platt)
"""The kinds of calibrator; ``ctr_pipeline.calibration.register_calibrator`` adds to them."""

AnyCalibrator = Annotated[SerializeAsAny[CalibratorSection], BeforeValidator(CALIBRATORS.validate)]
"""Type of a field that holds one of :data:`CALIBRATORS`."""
