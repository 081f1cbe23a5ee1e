"""Columns of the impression log that say what decided what was shown: kind of traffic, arm of an experiment."""

from typing import Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import Column, Section


class Traffic(Section):
    """How randomised impressions are distinguished from production ones."""

    column: Column = Field(description="Column with the kind of traffic.")
    random: list[str | int | bool] = Field(min_length=1, description="Its values that mean: the order was randomised.")
    production: list[str | int | bool] = Field(
        min_length=1, description="Its values that mean: the production ranker chose the order."
    )

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        both = [value for value in self.random if value in self.production]
        if both:
            raise ValueError(f"values {both} are both `random` and `production`: each value means one of them")
        return self


class Arm(Section):
    """Which impressions belong to which arm of an experiment."""

    column: Column = Field(description="Column with the arm.")
    control: list[str | int | bool] = Field(min_length=1, description="Its values that mean: as before.")
    treatment: list[str | int | bool] = Field(min_length=1, description="Its values that mean: treated.")

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        both = [value for value in self.control if value in self.treatment]
        if both:
            raise ValueError(f"values {both} are both `control` and `treatment`: each value means one of them")
        return self
