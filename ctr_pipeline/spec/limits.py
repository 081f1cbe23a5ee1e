"""Limits that the checks hold a run to."""

from typing import Literal

from pydantic import Field

from ctr_pipeline.spec.fields import Section, added_field


class Promotion(Section):
    """What a new model has to show beside the champion, on the same test rows."""

    require: Literal["not_worse", "better"] = Field(
        default="not_worse",
        description="`not_worse`: at most `quality.max_ne_regression` worse, which a retrain of the same spec is; `better`: "
        "surely better, which a change of the spec may have to be.",
    )
    max_auc_loss: float = Field(default=0.0005, ge=0, description="How far the AUC may be below the champion's.")
    max_ap_loss: float = Field(default=0.002, ge=0, description="How far the average precision may be below it.")
    calibrated_within: float = Field(
        default=0.03, gt=0, lt=1, description="How far observed over expected outcomes may be from 1."
    )
    max_slice_regression: float = Field(
        default=0.01, ge=0, description="How much worse, relatively, the normalised entropy of a slice may be."
    )
    min_slice_share: float = Field(
        default=0.01, gt=0, le=1, description="Share of the test rows from which on a slice is looked at."
    )
    good_days: float = Field(
        default=0.8, ge=0, le=1, description="Share of the test days on which the new model has to hold."
    )
    when_undecided: Literal["pass", "refuse"] = Field(
        default="pass",
        description="What becomes of a model where the test has too few outcomes for a gate; that of the normalised entropy "
        "always decides.",
    )


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
    promotion: Promotion = added_field(Promotion(), "What a new model has to show beside the champion.")
