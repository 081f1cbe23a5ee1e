"""How logits become probabilities whose rates hold."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from ctr_pipeline.spec.features import Features
from ctr_pipeline.spec.fields import Name, added_field
from ctr_pipeline.spec.source import ImpressionColumns, Source
from ctr_pipeline.spec.variants import Variant, Variants


class CalibratorSection(Variant):
    """Base of the sections that name a calibrator."""

    offsets_by: Name | None = added_field(
        None,
        "Categorical feature of one value, such as the advertiser: each of its values gets an offset of its own after the calibrator, drawn towards 0.",
    )


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

    @field_validator("candidates")
    @classmethod
    def _offsets_of_the_chosen_one(
        cls, candidates: "list[CalibratorSection] | None"
    ) -> "list[CalibratorSection] | None":
        inside = next((candidate for candidate in candidates or () if candidate.offsets_by is not None), None)
        if inside is not None:
            raise ValueError(
                f"{inside.kind!r} has `offsets_by`, and offsets are fitted after the choice: move it out of `candidates`, "
                "beside it"
            )
        return candidates


CALIBRATORS: Variants[CalibratorSection] = Variants(CalibratorSection, CrossValidated, Identity, Platt, Beta, Isotonic)
"""The kinds of calibrator; ``ctr_pipeline.calibration.register_calibrator`` adds to them."""

AnyCalibrator = Annotated[SerializeAsAny[CalibratorSection], BeforeValidator(CALIBRATORS.validate)]
"""Type of a field that holds one of :data:`CALIBRATORS`."""

CrossValidated.model_rebuild()


def refuse_wrong_offsets(
    section: CalibratorSection, source: Source, declared: ImpressionColumns, features: Features
) -> None:
    """Raises ValueError where offsets are declared by what is no category of one value, or identifies a person or a row."""
    name = section.offsets_by
    if name is None:
        return
    ids = {column: field for field in ("id", "user", "session") if (column := getattr(declared, field)) is not None}
    # The key of a side table is the id that it is joined by, under another name.
    ids |= {f"{table.name}.{table.key}": ids[table.joined_by] for table in source.tables if table.joined_by in ids}
    read_by = {feature.name: feature.source_column for feature in features.embedded}
    choices = [one for one in features.single if read_by[one] not in ids]
    remedy = f"use one of {', '.join(choices)}" if choices else "declare one under `features.categorical`"
    if (column := read_by.get(name)) in ids:
        raise ValueError(
            f"`calibration.offsets_by` names {name!r}, which reads column {column!r}, an id (`impression.{ids[column]}`): "
            f"offsets belong to groups of impressions, not to one person or row; {remedy}"
        )
    if name in features.single:
        return
    past = {one.name for one in features.history} | {made.feature.name for made in features.history_embedded}
    if name in read_by:
        found = "which holds lists: an impression has several of its values"
    elif name == "user":
        found = "the key of a person: offsets belong to groups of impressions"
    elif name in past:
        found = "which is made of the past: its values are not those of the impression"
    elif name in {number.name for number in features.numeric}:
        found = "which is a number"
    else:
        found = "which is no feature"
    raise ValueError(f"`calibration.offsets_by` names {name!r}, {found}; {remedy}")
