"""Limits that the checks hold a run to."""

from pydantic import Field

from ctr_pipeline.spec.fields import Section


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
