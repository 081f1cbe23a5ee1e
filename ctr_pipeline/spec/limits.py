"""Limits that the checks hold a run to."""

from pydantic import Field

from ctr_pipeline.spec.fields import Section, added_field


class Quality(Section):
    """Limits that the checks hold the run to."""

    max_quarantine_share: float = Field(
        default=0.01, ge=0, le=1, description="Above this share of quarantined rows a day is refused."
    )
    max_orphan_share: float = Field(
        default=0.01, ge=0, le=1, description="Above this share of events without their impression a day is refused."
    )
    min_mature_test_share: float = Field(
        default=0.995, ge=0, le=1, description="Below this share of mature test rows the evaluation is refused."
    )
    max_ne_regression: float = Field(
        default=0.01, ge=0, description="How much worse, relatively, the normalised entropy may be than the champion's."
    )
    max_validation_ne: float = added_field(
        1.0, "From this normalised entropy on the validation rows on, a model is refused; 1 is the base rate.", gt=0
    )
    better_than_position: bool = added_field(
        True, "Whether every task has to be surely predicted better than by the rates of its logged positions."
    )
