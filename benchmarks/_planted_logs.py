"""Changes as a user would meet them: of the logs, of the spec, of the key, or of a file of the retrain."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

Spec = dict[str, Any]
Rows = pl.DataFrame
Logs = tuple[Rows, Rows]
"""Impressions and events."""

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, FURTHER = 14, 3
"""Days of the log of the first run, and further ones that only drift has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A planted change.

    Attributes:
        name: What was done.
        expected: The kind of cause that is right, and beginnings of the subject that it may name.
        logs: Of the logs; the identity where they stay.
        spec: Of the spec.
        key: Another key of the hashes, or None.
        old_vocabulary: Whether the fitted ids are replaced by those of fewer days, and all after them made again.
        days: Days that the second run reads.
        required: Whether it is one of the twelve of the acceptance.
    """

    name: str
    expected: Mapping[str, tuple[str, ...]]
    logs: Callable[[Rows, Rows], Logs] = field(default=lambda shown, events: (shown, events))
    spec: Callable[[Spec], None] = field(default=lambda _: None)
    key: str | None = None
    old_vocabulary: bool = False
    days: int = DAYS
    required: bool = False


def day(number: int) -> datetime:
    """The instant at which day ``number`` of the log begins, 0 for the first."""
    return FIRST + timedelta(days=number)


def rows(change: Callable[[Rows], Rows]) -> Callable[[Rows, Rows], Logs]:
    """A change of the impressions alone."""
    return lambda shown, events: (change(shown), events)


def column(**values: pl.Expr) -> Callable[[Rows, Rows], Logs]:
    """Other values of columns of the impressions."""
    return rows(lambda shown: shown.with_columns(**values))


def with_past_rate(shown: Rows, events: Rows, lag: int = 0) -> Rows:
    """The impressions with a column of the user's own: the ad's click rate of the day before, ``lag`` days older."""
    clicked = events.filter(pl.col("event_type") == "click").select("impression_id").unique().with_columns(hit=True)
    daily = (
        shown.join(clicked, on="impression_id", how="left")
        .group_by("ad_id", pl.col("ts").dt.date().alias("date"))
        .agg(rate=(pl.col("hit").fill_null(False).sum() + 0.5) / (pl.len() + 50.0))
        .with_columns(pl.col("date") + pl.duration(days=1 + lag))
    )
    dated = shown.with_columns(date=pl.col("ts").dt.date())
    joined = dated.join(daily, on=["ad_id", "date"], how="left", maintain_order="left")
    return joined.drop("date").rename({"rate": "ad_rate_yesterday"})


def _lagged(shown: Rows, events: Rows) -> Logs:
    return with_past_rate(shown.drop("ad_rate_yesterday"), events, lag=2), events


def _twice(shown: Rows) -> Rows:
    again = shown.filter(pl.col("session_id").hash(1) % 8 == 0)
    return pl.concat([shown, again.with_columns(pl.col("impression_id") + "-2")]).sort("ts", maintain_order=True)


def _without_clicks(first: int, days: int) -> Callable[[Rows, Rows], Logs]:
    lost = pl.col("event_ts").is_between(day(first), day(first + days), closed="left")
    return lambda shown, events: (shown, events.filter(~lost))


def _drifted(shown: Rows, events: Rows) -> Logs:
    """Of the further days, most sessions of desktops are gone, and the others are dearer queries."""
    gone = (pl.col("ts") >= day(DAYS)) & (pl.col("device_type") == "desktop") & (pl.col("session_id").hash(2) % 10 < 7)
    kept = shown.filter(~gone)
    return kept, events.join(kept.select("impression_id"), on="impression_id", how="semi")


def _sampled(shown: Rows, events: Rows) -> Logs:
    """Half of the rows without an outcome are gone."""
    hit = events.select("impression_id").unique().with_columns(hit=True)
    marked = shown.join(hit, on="impression_id", how="left", maintain_order="left")
    kept = marked.filter(pl.col("hit").fill_null(False) | (pl.col("impression_id").hash(3) % 2 == 0)).drop("hit")
    return kept, events


def _without_mobile(shown: Rows, events: Rows) -> Logs:
    kept = shown.filter(pl.col("device_type") != "mobile")
    return kept, events.join(kept.select("impression_id"), on="impression_id", how="semi")


def _hours_later(shown: Rows, events: Rows) -> Logs:
    later = pl.duration(hours=3)
    return (
        shown.with_columns(pl.col("ts", "ingest_ts") + later).filter(pl.col("ts") < day(DAYS)),
        events.with_columns(pl.col("event_ts", "ingest_ts") + later),
    )


def _drop_feature(spec: Spec) -> None:
    spec["features"]["dense"] = [f for f in spec["features"]["dense"] if f["name"] != "query_ad_similarity"]


def _no_log(spec: Spec) -> None:
    [feature] = [f for f in spec["features"]["dense"] if f["name"] == "price"]
    del feature["transform"]


def _training(**values: Any) -> Callable[[Spec], None]:
    return lambda spec: spec["training"].update(values)


def _model(**values: Any) -> Callable[[Spec], None]:
    return lambda spec: spec["model"].update(values)


def _window(spec: Spec) -> None:
    spec["tasks"][0]["window"] = "10s"


def _filter(spec: Spec) -> None:
    spec["source"]["impressions"] = {"rows": [{"column": "device_type", "drop": ["mobile"]}]}


def _seed(spec: Spec) -> None:
    spec["seed"] = 8


_DEVICE = pl.col("device_type")
_SOME = pl.col("session_id").hash(4) % 5 == 0

CHANGES = (
    Change(name="unit of one feature", expected={"feature": ("price",)}, logs=column(price=pl.col("price") * 100), required=True),
    Change(name="dropped feature", expected={"spec": ("features",)}, spec=_drop_feature, required=True),
    Change(
        name="swapped columns", expected={"feature": ("rating", "image_quality")}, required=True,
        logs=column(rating=pl.col("image_quality"), image_quality=pl.col("rating")),
    ),
    Change(name="stale vocabulary", expected={"vocabulary": ()}, old_vocabulary=True, required=True),
    Change(
        name="new category", expected={"category": ("device_type",)}, required=True,
        logs=column(device_type=pl.when((_DEVICE == "mobile") & _SOME).then(pl.lit("tv")).otherwise(_DEVICE)),
    ),
    Change(name="label outage", expected={"labels": ()}, logs=_without_clicks(2, 2), required=True),
    Change(name="halved learning rate", expected={"spec": ("training.learning_rate",)}, spec=_training(learning_rate=0.0015), required=True),
    Change(name="new module", expected={"spec": ("model",)}, spec=_model(interactions=[{"kind": "cross"}]), required=True),
    Change(name="time-shifted history", expected={"history": ("ad_rate_yesterday",)}, logs=_lagged, required=True),
    Change(name="duplicated rows", expected={"rows": ()}, logs=rows(_twice), required=True),
    Change(name="another key", expected={"key": ()}, key="another key of the hashes", required=True),
    Change(name="drift only", expected={"drift": ()}, logs=_drifted, days=DAYS + FURTHER, required=True),
    Change(name="time zone", expected={"time": ()}, logs=_hours_later),
    Change(
        name="missing becomes 0", expected={"feature": ("ad_rate_yesterday",)},
        logs=column(ad_rate_yesterday=pl.col("ad_rate_yesterday").fill_null(0.0)),
    ),
    Change(name="logarithm left out", expected={"spec": ("features",)}, spec=_no_log),
    Change(name="shorter window", expected={"spec": ("tasks",)}, spec=_window),
    # Their events go with them: those of impressions that are not there are refused.
    Change(
        name="filter that drops mobile", expected={"spec": ("source",)}, spec=_filter,
        logs=lambda shown, events: (shown, _without_mobile(shown, events)[1]),
    ),
    Change(name="log without mobile", expected={"rows": ()}, logs=lambda shown, events: _without_mobile(shown, events)),
    Change(name="negatives sampled", expected={"rows": ()}, logs=_sampled),
    Change(name="seed only", expected={"noise": (), "spec": ("seed",)}, spec=_seed),
    Change(name="epochs halved", expected={"spec": ("training.epochs",)}, spec=_training(epochs=1)),
    Change(name="capped values", expected={"feature": ("price",)}, logs=column(price=pl.col("price").clip(upper_bound=50.0))),
    Change(
        name="renamed category", expected={"category": ("device_type",)},
        logs=column(device_type=_DEVICE.replace({"mobile": "Mobile"})),
    ),
    Change(
        name="unit from the test on", expected={"feature": ("price",)},
        logs=column(price=pl.when(pl.col("ts") >= day(DAYS - 3)).then(pl.col("price") * 100).otherwise(pl.col("price"))),
    ),
    Change(name="sign", expected={"feature": ("query_ad_similarity",)}, logs=column(query_ad_similarity=-pl.col("query_ad_similarity"))),
    Change(
        name="swapped categories", expected={"category": ("placement", "page_type")},
        logs=column(placement=pl.col("page_type"), page_type=pl.col("placement")),
    ),
    Change(name="label outage in the test", expected={"labels": ()}, logs=_without_clicks(DAYS - 3, 1)),
    Change(name="nothing", expected={"none": ()}),
)  # fmt: skip
"""All planted changes; those that are required first."""


def changed_spec(base: Spec, change: Change) -> Spec:
    """A copy of ``base`` with the change of the spec."""
    spec = deepcopy(base)
    change.spec(spec)
    return spec
