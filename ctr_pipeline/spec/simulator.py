"""Settings of the built-in marketplace, and the incidents that may be planted in it."""

from datetime import date, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import Name, Section, added_field

NumericColumn = Literal[
    "price",
    "discount_pct",
    "rating",
    "review_count",
    "stock_level",
    "title_length",
    "image_quality",
    "ad_age_days",
    "advertiser_rating",
    "query_ad_similarity",
    "user_category_affinity",
    "user_tenure_days",
    "user_sessions_30d",
    "delivery_days",
    "session_depth",
    "query_length",
    "result_count",
]
"""The numeric columns of the simulated impression log."""


class HourlyIncident(Section):
    """Something that happens for some hours of one day."""

    day: date = Field(description="Day of the incident, UTC.")
    hours: tuple[int, int] = Field(default=(0, 24), description="First hour, and the hour at which it is over.")

    @model_validator(mode="after")
    def _hours_in_order(self) -> Self:
        if not 0 <= self.hours[0] < self.hours[1] <= 24:
            raise ValueError("`hours` is [first, end] with 0 <= first < end <= 24")
        return self

    @property
    def last(self) -> date:
        """Last day on which the incident holds."""
        return self.day


class LastingIncident(Section):
    """Something that holds from one day on."""

    day: date = Field(description="First day of the incident, UTC.")
    last_day: date | None = Field(default=None, description="Its last day; the end of the period when absent.")

    @model_validator(mode="after")
    def _days_in_order(self) -> Self:
        if self.last_day is not None and self.last_day < self.day:
            raise ValueError(f"`last_day` {self.last_day} is before `day` {self.day}")
        return self

    @property
    def last(self) -> date:
        """Last day on which the incident holds."""
        return self.last_day or date.max


class ClickLogOutage(HourlyIncident):
    """Clicks that happen in these hours never reach the log; later steps do."""

    kind: Literal["click_log_outage"] = "click_log_outage"


class LateBurst(HourlyIncident):
    """Events that should arrive in these hours arrive later, all by the same time."""

    kind: Literal["late_burst"] = "late_burst"
    delay_hours: float = Field(default=72.0, gt=0, description="How much later they arrive.")


class DuplicatedDelivery(HourlyIncident):
    """Pages of these hours, and the events that follow from them, are delivered twice."""

    kind: Literal["duplicated_delivery"] = "duplicated_delivery"
    share: float = Field(default=0.2, gt=0, le=1, description="Share of the pages that come twice.")


class UnitChange(LastingIncident):
    """A column changes its unit: all its values are multiplied."""

    kind: Literal["unit_change"] = "unit_change"
    feature: NumericColumn = Field(description="Column of the impression log.")
    factor: float = Field(default=100.0, gt=0, description="New unit per old unit.")


class UnnormalisedFeature(LastingIncident):
    """A column carries raw, huge, heavy-tailed values: each is multiplied by scale · exp(N(0, 1))."""

    kind: Literal["unnormalised_feature"] = "unnormalised_feature"
    feature: NumericColumn = Field(description="Column of the impression log.")
    scale: float = Field(default=1e4, gt=0, description="Median of the factor.")


class BotCampaign(HourlyIncident):
    """In these hours some pages are asked for by a few users that click on everything and never buy."""

    kind: Literal["bot_campaign"] = "bot_campaign"
    share: float = Field(default=0.05, gt=0, le=1, description="Share of the pages.")
    users: int = Field(default=20, gt=0, description="Number of users that the bots pose as.")
    click_probability: float = Field(default=0.6, gt=0, le=1, description="Probability of a click on each ad.")


class TrafficShift(LastingIncident):
    """Some pages are asked for by users of one kind of device instead of by all users."""

    kind: Literal["traffic_shift"] = "traffic_shift"
    device: Literal["mobile", "desktop", "tablet"] = Field(default="mobile", description="Kind of device.")
    share: float = Field(default=0.5, gt=0, le=1, description="Share of the pages that is redirected.")


class NewCategory(LastingIncident):
    """Some ads are moved to a category id that the log has never had."""

    kind: Literal["new_category"] = "new_category"
    share: float = Field(default=0.1, gt=0, le=1, description="Share of the ads that is moved.")


Incident = Annotated[
    ClickLogOutage
    | LateBurst
    | DuplicatedDelivery
    | UnitChange
    | UnnormalisedFeature
    | BotCampaign
    | TrafficShift
    | NewCategory,
    Field(discriminator="kind"),
]


INCIDENT_KINDS = (
    "click_log_outage",
    "late_burst",
    "duplicated_delivery",
    "unit_change",
    "unnormalised_feature",
    "bot_campaign",
    "traffic_shift",
    "new_category",
)
"""The values of an incident's `kind`."""


class UserDrift(Section):
    """Interests of users that change from day to day, and how much they matter."""

    renewed: float = Field(default=0.05, gt=0, le=1, description="Share of a user's interests that is new each day.")
    weight: float = Field(default=1.0, gt=0, description="Weight of the interests in the click logit; 0.55 without.")


class SimulatedExperiment(Section):
    """An experiment on the users: the log says in `experiment_arm` who was in which arm, null outside of it."""

    name: Name = Field(default="experiment", description="Key of the assignment, by a hash of the user id.")
    day: date = Field(description="First day, UTC.")
    last_day: date | None = Field(default=None, description="Last day; the end of the period when absent.")
    share: float = Field(default=1.0, gt=0, le=1, description="Share of the users who take part.")
    treated: float = Field(default=0.5, gt=0, lt=1, description="Share of those who are treated.")
    click: float = Field(default=0.0, gt=-1, description="Relative effect of the treatment on click probabilities.")
    next_step: float = Field(
        default=0.0, gt=-1, description="Relative effect on the probability of the step after the click, given a click."
    )

    @model_validator(mode="after")
    def _days_in_order(self) -> Self:
        if self.last_day is not None and self.last_day < self.day:
            raise ValueError(f"`last_day` {self.last_day} is before `day` {self.day}")
        return self

    def holds(self, day: date) -> bool:
        """Whether it runs on ``day``."""
        return self.day <= day <= (self.last_day or date.max)


class SimulatorSettings(Section):
    """Size and funnel of the simulated marketplace; its laws are fixed in the package `simulator`."""

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
    incidents: tuple[Incident, ...] = Field(
        default=(), max_length=16, description="Faults planted in the log, to see whether they are noticed."
    )

    user_drift: UserDrift | None = added_field(None, "Users' interests change; absent, they stay what they are.")

    experiment: SimulatedExperiment | None = added_field(
        None, "An experiment whose effect is known; the log then has the column `experiment_arm`."
    )

    @model_validator(mode="after")
    def _experiment_happens(self) -> Self:
        last_day = self.first_day + timedelta(days=self.days - 1)
        if self.experiment is not None and not self.first_day <= self.experiment.day <= last_day:
            raise ValueError(
                f"the experiment begins on {self.experiment.day}, outside the period {self.first_day} to {last_day}"
            )
        return self

    @model_validator(mode="after")
    def _incidents_happen(self) -> Self:
        last_day = self.first_day + timedelta(days=self.days - 1)
        for incident in self.incidents:
            if not self.first_day <= incident.day <= last_day:
                raise ValueError(
                    f"incident {incident.kind} on {incident.day} is outside the period {self.first_day} to {last_day}"
                )
        return self
