"""How time is divided into training, validation, calibration and test."""

from typing import Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import Duration, Section


class Slice(Section):
    """An interval of time: whole days, or a share of the mature impressions."""

    days: int | None = Field(default=None, gt=0, description="Length in days.")
    fraction: float | None = Field(default=None, gt=0, lt=1, description="Share of the mature impressions of the run.")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.days is None) == (self.fraction is None):
            found = "neither" if self.days is None else "both"
            raise ValueError(f"declare exactly one of `days` and `fraction`; found {found}")
        return self


class Split(Section):
    """A simulated deployment, in time order: train, validation, calibration, maturity gap, test.

    The test is the latest mature interval. Everything before the gap is labelled as of the first instant of the test.
    """

    test: Slice = Field(default=Slice(days=7), description="The latest mature interval.")
    calibration: Slice = Field(
        default=Slice(days=2), description="Interval before the gap on which calibrators are fitted."
    )
    validation: Slice = Field(
        default=Slice(days=1), description="Interval before calibration on which the best epoch is chosen."
    )
    train_days: int | None = Field(
        default=None, gt=0, description="Longest training interval in days; all of the log when absent."
    )
    ingest_lag: Duration = Field(
        default=0, description="Extra time after a window closes before its label counts as settled."
    )

    @model_validator(mode="after")
    def _training_rows_left(self) -> Self:
        share = sum(part.fraction or 0.0 for part in (self.test, self.calibration, self.validation))
        if share >= 1:
            raise ValueError(f"the fractions add up to {share:g}: leave some of the impressions for training")
        return self
