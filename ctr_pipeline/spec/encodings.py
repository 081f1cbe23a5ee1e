"""How a number reaches the model: as it is, standardised, or in bins or an angle."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from ctr_pipeline.spec.variants import Variant, Variants


class EncodingSection(Variant):
    """Base of the sections that name an encoding of numbers."""


class Standard(EncodingSection):
    """The standardised value alone."""

    kind: Literal["standard"] = "standard"


class PiecewiseLinear(EncodingSection):
    """Beside the standardised value an input a bin: how far the value is through it (Gorishniy et al., NeurIPS 2022)."""

    kind: Literal["piecewise_linear"] = "piecewise_linear"
    bins: int = Field(
        default=16, ge=2, le=256, description="Bins, at most: their edges are quantiles of the training rows."
    )


class Bucket(EncodingSection):
    """Instead of the value, a 0/1 input a bin: whether the value is in it."""

    kind: Literal["bucket"] = "bucket"
    bins: int = Field(
        default=16, ge=2, le=256, description="Bins, at most: their edges are quantiles of the training rows."
    )


class Cyclic(EncodingSection):
    """Instead of the value, the sine and cosine of 2π·value/period: the end of a period is next to its beginning."""

    kind: Literal["cyclic"] = "cyclic"
    period: float = Field(
        gt=1e-30, lt=1e30, description="After how much the value means the same again: 24 for an hour of the day."
    )


ENCODINGS: Variants[EncodingSection] = Variants(EncodingSection, Standard, PiecewiseLinear, Bucket, Cyclic)
"""The kinds of encoding; the modules of :mod:`ctr_pipeline.ranker.encodings` compute them."""

AnyEncoding = Annotated[SerializeAsAny[EncodingSection], BeforeValidator(ENCODINGS.validate)]
"""Type of a field that holds one of :data:`ENCODINGS`."""
