"""Settings of the built-in marketplace."""

from datetime import date
from typing import Literal

from pydantic import Field

from ctr_pipeline.spec.fields import Section


class SimulatorSettings(Section):
    """Size and funnel of the simulated marketplace; its laws are fixed in the `simulator` room."""

    funnel: Literal["checkout", "credit"] = Field(
        default="checkout",
        description="Outcomes after an impression: `checkout` is click, add_to_cart, checkout; `credit` is click, application, conversion, approval.",
    )
    first_day: date = Field(default=date(2026, 1, 1), description="First simulated day.")
    days: int = Field(default=52, gt=0, le=3660, description="Number of simulated days.")
    sessions_per_day: int = Field(default=30_000, gt=0, description="Sessions a day; each shows five ads.")
    users: int = Field(default=100_000, gt=0, description="Number of users.")
    queries: int = Field(default=20_000, gt=0, description="Number of distinct queries.")
    advertisers: int = Field(default=600, gt=0, description="Number of advertisers.")
    ads: int = Field(default=6_000, gt=0, description="Number of ads over the whole period.")
    random_share: float = Field(
        default=0.02, ge=0, le=1, description="Share of sessions whose ads are ranked uniformly at random."
    )
