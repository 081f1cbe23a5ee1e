"""Daily partitions, and how the days of one table depend on the days of another."""

from datetime import date, timedelta

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import is_exact


def daily_partitions(deployment: Deployment) -> dg.DailyPartitionsDefinition:
    """One partition for each UTC day of the log."""
    end = (deployment.last_day + timedelta(days=1)).isoformat() if deployment.last_day else None
    return dg.DailyPartitionsDefinition(start_date=deployment.first_day.isoformat(), end_date=end, timezone="UTC")


def arrival_days(spec: Spec) -> dg.TimeWindowPartitionMapping:
    """The days on which outcomes of one day's impressions may arrive in time."""
    return dg.TimeWindowPartitionMapping(
        start_offset=-early_days(spec).days, end_offset=window_days(spec), allow_nonexistent_upstream_partitions=True
    )


def past_days(days: int) -> dg.TimeWindowPartitionMapping:
    """The ``days`` days up to and including a partition's own."""
    return dg.TimeWindowPartitionMapping(start_offset=-days, end_offset=0, allow_nonexistent_upstream_partitions=True)


def touch_days(spec: Spec) -> dg.TimeWindowPartitionMapping | None:
    """The days of impressions to which the events of a day may belong that name none; None where all name one."""
    within = [log.attribute.within for log in spec.source.events if log.attribute is not None]
    # An event may arrive a day after it happened, and as long again for what `max_early` crosses.
    return past_days(-(-max(within) // DAY_US) + 1) if within else None


def history_days(spec: Spec) -> dg.TimeWindowPartitionMapping:
    """The days from which a partition's history features are computed; its own only where they look back from it."""
    features = spec.features.history
    reach = max((feature.days for feature in features), default=0) + window_days(spec)
    exact = any(is_exact(feature) for feature in features)
    return dg.TimeWindowPartitionMapping(
        start_offset=-max(1, reach), end_offset=0 if exact else -1, allow_nonexistent_upstream_partitions=True
    )


def early_days(spec: Spec) -> timedelta:
    """How many days before its impression an outcome may arrive: `source.max_early` may cross a midnight."""
    return timedelta(days=-(-spec.source.max_early // DAY_US))


def window_days(spec: Spec) -> int:
    """The longest label window in days, rounded up."""
    return -(-spec.longest_maturity // DAY_US)


def training_days(spec: Spec) -> int:
    """How many days back a retrain reads: its slices, two maturity gaps, and the training interval."""
    split = spec.split
    slices = sum(part.days or 0 for part in (split.test, split.calibration, split.validation))
    return slices + 2 * window_days(spec) + (split.train_days or 365)


def partition_days(context: dg.AssetExecutionContext) -> list[date]:
    """The days of the partitions that this step materialises."""
    return [date.fromisoformat(key) for key in context.partition_keys]
