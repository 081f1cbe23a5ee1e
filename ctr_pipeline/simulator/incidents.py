"""Plants the declared incidents: in the pages, in the columns and in the events of the log."""

from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctr_pipeline.simulator.auction import Sessions
from ctr_pipeline.simulator.laws import DEVICES, SLOTS
from ctr_pipeline.simulator.outcome_draws import SECOND, Outcomes
from ctr_pipeline.simulator.world import INCIDENT, Floats, World, stream
from ctr_pipeline.spec.fields import DAY_US, MICROSECONDS
from ctr_pipeline.spec.simulator import (
    BotCampaign,
    ClickLogOutage,
    DuplicatedDelivery,
    HourlyIncident,
    LateBurst,
    NewCategory,
    TrafficShift,
    UnitChange,
    UnnormalisedFeature,
)

Marks = NDArray[np.int32]
"""Bit n is set where the incident number n of the settings touched a row."""

NEW_CATEGORY = 30
"""Code of the category id that only the incident `new_category` uses."""

REDELIVERY_US = 5 * MICROSECONDS["m"]
"""How long after the first copy the second one arrives."""


class DayIncidents:
    """The incidents that touch the impressions of one day, or the events that follow from them."""

    def __init__(self, world: World, day: date) -> None:
        self._world, self._day = world, day
        planted = list(enumerate(world.settings.incidents))
        self._today = [(n, i) for n, i in planted if i.day <= day <= i.last]
        # An event may come long after its impression, so a later outage can touch the events of this day.
        self._events = [(n, i) for n, i in planted if isinstance(i, ClickLogOutage | LateBurst) and day <= i.day]

    def _random(self, number: int, chunk: int) -> np.random.Generator:
        return stream(self._world.seed, INCIDENT, number, self._day.toordinal(), chunk)

    def ad_categories(self) -> tuple[NDArray[np.int8], Marks]:
        """The category code that the log gives each ad [ads], and the marks of those moved."""
        category = self._world.ads.category.copy()
        marks = np.zeros(len(category), np.int32)
        for number, incident in self._today:
            if isinstance(incident, NewCategory):
                moved = stream(self._world.seed, INCIDENT, number).random(len(category)) < incident.share
                category[moved] = NEW_CATEGORY
                marks[moved] |= 1 << number
        return category, marks

    def redirect(self, sessions: Sessions, chunk: int) -> tuple[Sessions, Floats, Marks]:
        """The pages after shifts of traffic and bots, the click probability of bots [n] (0: human), and marks [n]."""
        users, user = self._world.users, sessions.user.copy()
        bots, marks = np.zeros(len(user), np.float32), np.zeros(len(user), np.int32)
        for number, incident in self._today:
            if isinstance(incident, TrafficShift):
                random = self._random(number, chunk)
                hit = np.flatnonzero(random.random(len(user)) < incident.share)
                ranked = users.by_rank[users.device[users.by_rank] == DEVICES.index(incident.device)]
                if len(ranked) == 0:
                    continue
                shares = np.diff(users.cumulative, prepend=0.0)[users.device[users.by_rank] == users.device[ranked[0]]]
                user[hit] = random.choice(ranked, size=len(hit), p=shares / shares.sum())
                marks[hit] |= 1 << number
            elif isinstance(incident, BotCampaign):
                random = self._random(number, chunk)
                hit = np.flatnonzero(_in_hours(incident, sessions.start) & (random.random(len(user)) < incident.share))
                user[hit] = random.choice(users.by_rank[-incident.users :], size=len(hit))
                bots[hit] = incident.click_probability
                marks[hit] |= 1 << number
        return replace(sessions, user=user), bots, marks

    def meddle(self, outcomes: Outcomes) -> tuple[Outcomes, Marks]:
        """The events that outages leave and bursts delay, and marks [C] of the clicked rows they touched."""
        logged, ingest = outcomes.logged.copy(), outcomes.ingest.copy()
        marks = np.zeros(logged.shape[1], np.int32)
        for number, incident in self._events:
            if isinstance(incident, ClickLogOutage):
                hit = logged[0] & _in_window(incident, outcomes.time[0])
                logged[0] &= ~hit
                marks[hit] |= 1 << number
            else:
                late = logged & _in_window(incident, ingest)
                ingest[late] += int(incident.delay_hours * 3600 * SECOND)
                marks[late.any(axis=0)] |= 1 << number
        return replace(outcomes, logged=logged, ingest=ingest), marks

    def twice(self, start: NDArray[np.int64], chunk: int) -> tuple[NDArray[np.bool_], Marks]:
        """Which pages [n] are delivered twice, and their marks."""
        twice, marks = np.zeros(len(start), np.bool_), np.zeros(len(start), np.int32)
        for number, incident in self._today:
            if isinstance(incident, DuplicatedDelivery):
                hit = _in_hours(incident, start) & (self._random(number, chunk).random(len(start)) < incident.share)
                twice |= hit
                marks[hit] |= 1 << number
        return twice, marks

    def distort(self, table: pa.Table, chunk: int) -> tuple[pa.Table, int]:
        """The impressions with changed units and raw features, and the mark of all rows."""
        mark = 0
        for number, incident in self._today:
            if not isinstance(incident, UnitChange | UnnormalisedFeature):
                continue
            if isinstance(incident, UnitChange):
                factor: float | Floats = incident.factor
            else:
                draws = self._random(number, chunk).standard_normal(table.num_rows, dtype=np.float32)
                factor = np.float32(incident.scale) * np.exp(draws)
            place = table.column_names.index(incident.feature)
            column = table.column(place).combine_chunks()
            table = table.set_column(place, incident.feature, _multiplied(column, factor))
            mark |= 1 << number
        return table, mark


def deliver_twice(table: pa.Table, twice: NDArray[np.bool_]) -> pa.Table:
    """The impressions, with the rows of the pages in ``twice`` repeated behind the page and received later."""
    if not twice.any():
        return table
    pages = np.repeat(np.arange(len(twice)), 1 + twice)
    second = np.concatenate([[False], pages[1:] == pages[:-1]])
    table = table.take(pa.array((pages[:, None] * SLOTS + np.arange(SLOTS)).ravel()))
    place = table.column_names.index("ingest_ts")
    received = table.column(place).combine_chunks().cast(pa.int64()).to_numpy()
    received = received + REDELIVERY_US * np.repeat(second, SLOTS)
    return table.set_column(place, "ingest_ts", pa.array(received).cast(table.schema.field(place).type))


def incident_names(world: World, marks: Marks) -> pa.Array:
    """The kinds of the incidents in ``marks`` [M], each once, joined by ``+``; null where there is none."""
    kinds = [incident.kind for incident in world.settings.incidents]
    present, code = np.unique(marks, return_inverse=True)
    found = [dict.fromkeys(kind for n, kind in enumerate(kinds) if mark >> n & 1) for mark in present.tolist()]
    return pa.array(["+".join(names) for names in found]).take(pa.array(code, mask=marks == 0))


def _in_hours(incident: HourlyIncident, start: NDArray[np.int64]) -> NDArray[np.bool_]:
    hour = start // MICROSECONDS["h"]
    inside: NDArray[np.bool_] = (incident.hours[0] <= hour) & (hour < incident.hours[1])
    return inside


def _in_window(incident: HourlyIncident, time: NDArray[np.int64]) -> NDArray[np.bool_]:
    midnight = (incident.day - date(1970, 1, 1)).days * DAY_US
    return _in_hours(incident, np.where((time >= midnight) & (time < midnight + DAY_US), time - midnight, -DAY_US))


def _multiplied(column: pa.Array, factor: float | Floats) -> pa.Array:
    """``column`` times ``factor`` in its own type; whole numbers are rounded and held at the type's largest."""
    missing = column.is_null().to_numpy(zero_copy_only=False)
    kind = column.type.to_pandas_dtype()
    values = column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64) * factor
    if np.issubdtype(kind, np.integer):
        limits = np.iinfo(kind)
        values = np.clip(np.round(values), limits.min, limits.max)
    return pa.array(values.astype(kind), mask=missing)
