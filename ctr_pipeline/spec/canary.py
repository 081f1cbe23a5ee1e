"""When a challenger that answers a share of the users is rolled back."""

from pydantic import Field

from ctr_pipeline.spec.fields import Section, added_field


class Canary(Section):
    """Limits of a challenger in `ctr release canary`; beyond them it is rolled back by itself."""

    share: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="Share of the users that the challenger answers, unless `--share` says it.",
    )
    false_alarms: float = Field(
        default=0.01,
        gt=0,
        lt=0.5,
        description="Chance that a challenger within all limits is rolled back, over the whole canary.",
    )
    failures: float = Field(
        default=0.001,
        gt=0,
        lt=1,
        description="Share of the requests that the challenger may fail to score, where the champion does not.",
    )
    slow_ms: float | None = Field(
        default=None,
        gt=0,
        description="Milliseconds of scoring above which a request is slow; null for `serving.budget_ms`.",
    )
    slow_odds: float = Field(
        default=2.0, ge=1, description="How many times the champion's the odds of a slow request may be."
    )
    low: float = Field(default=0.9, gt=0, lt=1, description="Least observed over expected outcomes of each task.")
    high: float = Field(default=1.1, gt=1, description="Most observed over expected outcomes of each task.")
    margin: float = Field(
        default=0.05,
        ge=0,
        description="By how much, as a ratio, observed over expected may be further off than the champion's.",
    )
    early_ratio: float | None = added_field(
        1.3,
        "Before the windows are over: how many times the champion's observed over expected the challenger's may be, or the champion's the challenger's; null where only mature outcomes are looked at.",
        gt=1,
    )
