"""The columns of the logs: what a collector observes of the marketplace, as Arrow tables."""

from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctr_pipeline.simulator.auction import Sessions, Shown
from ctr_pipeline.simulator.experiment import ARMS
from ctr_pipeline.simulator.incidents import REDELIVERY_US, Marks, incident_names
from ctr_pipeline.simulator.laws import DEVICES, LAWS, SLOTS
from ctr_pipeline.simulator.outcome_draws import SECOND, STEPS, Outcomes
from ctr_pipeline.simulator.world import GEO, NOISE_KINDS, SYSTEMS, Bytes, Floats, Integers, World
from ctr_pipeline.spec.fields import DAY_US, MICROSECONDS

Value = TypeVar("Value", bound=np.generic)

TIME = pa.timestamp("us", tz="UTC")
TRAFFIC = ("production", "random")
PAGE_TYPES = ("search", "category", "deals")
PLACEMENTS = ("main", "sidebar", "overlay")
CONNECTIONS = ("wifi", "4g", "5g", "cable")
CONNECTION_SHARES = ((0.45, 0.35, 0.2, 0.0), (0.4, 0.0, 0.0, 0.6), (0.8, 0.15, 0.05, 0.0))
CATEGORY_IDS = tuple(f"c{number:02d}" for number in range(31))

EVENT_SCHEMA = pa.schema(
    [("impression_id", pa.string()), ("event_type", pa.string()), ("event_ts", TIME), ("ingest_ts", TIME)]
)

UNREPEATED = frozenset(
    {"impression_id", "session_id", "query_ad_similarity", "ingest_ts", "click_probability", "relevance"}
)
"""Columns whose values hardly repeat, so that a dictionary in Parquet does not pay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdDay:
    """What one day changes in the ads: price, stock, age, and the category code that the log gives them."""

    price: Floats
    stock: Integers
    age: Integers
    category: NDArray[np.int8]


def draw_ad_day(world: World, day: int, category: NDArray[np.int8], random: np.random.Generator) -> AdDay:
    """Prices, stocks and ages of all ads on day number ``day``, when the log puts them in ``category`` [ads]."""
    ads = world.ads
    count = len(ads.price)
    return AdDay(
        price=(ads.price * np.exp(0.03 * random.standard_normal(count))).round(2).astype(np.float32),
        stock=(ads.stock * np.exp(0.5 * random.standard_normal(count))).astype(np.int32),
        age=(day - ads.start).astype(np.int32),
        category=category,
    )


def impression_ids(day: date, first: int, count: int) -> Bytes:
    """Ids [count] of the rows of ``day`` from number ``first`` on, such as ``20260101-0000012``."""
    return _numbered(f"{day:%Y%m%d}-", first, count)


def _numbered(prefix: str, first: int, count: int, width: int = 9) -> Bytes:
    text = np.empty((count, len(prefix) + width), np.uint8)
    text[:, : len(prefix)] = np.frombuffer(prefix.encode(), np.uint8)
    rest = np.arange(first, first + count, dtype=np.int64)
    for place in range(width):
        rest, digit = np.divmod(rest, 10)
        text[:, -1 - place] = digit + ord("0")
    return text.view(f"S{text.shape[1]}").ravel()


def strings(values: Bytes) -> pa.StringArray:
    """An Arrow string column of fixed-width bytes that have no padding."""
    width = values.dtype.itemsize
    offsets = np.arange(0, (len(values) + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(values.tobytes()))


def _codes(
    codes: NDArray[np.integer[Any]], names: tuple[str, ...], missing: NDArray[np.bool_] | None = None
) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=missing), pa.array(names))


def impression_table(
    world: World,
    day: date,
    first_session: int,
    sessions: Sessions,
    shown: Shown,
    ad_day: AdDay,
    random: np.random.Generator,
) -> pa.Table:
    """The impression log of some pages, a row for each of their slots, in time order."""
    users, queries, ads, noise = world.users, world.queries, world.ads, LAWS.noise
    pages = len(sessions.start)
    user, query, ad = sessions.user, sessions.query, shown.ad.ravel()
    device = users.device[user]

    def spread(values: NDArray[Value]) -> NDArray[Value]:
        return np.repeat(values, SLOTS)

    midnight = (day - date(1970, 1, 1)).days * DAY_US
    start = midnight + sessions.start
    lag = LAWS.delays.ingest_median * np.exp(LAWS.delays.ingest_sigma * random.standard_normal(pages))
    affinity = np.einsum("nk,nk->n", users.latent[user], world.centres[queries.category[query]])
    affinity += np.float32(0.4) * random.standard_normal(pages, dtype=np.float32)
    similarity = query_ad_match(world, query, shown.ad).ravel()
    similarity += np.float32(0.4) * random.standard_normal(len(ad), dtype=np.float32)
    uniform = random.random((5, pages), dtype=np.float32)
    connection = (uniform[0][:, None] > np.cumsum(CONNECTION_SHARES, axis=1)[device][:, :-1]).sum(axis=1)
    new = np.flatnonzero(ad_day.age[ad] < noise.new_ad_days)
    unknown = np.zeros(len(ad), np.bool_)
    unknown[new] = random.random(len(new)) < noise.missing_new_ad
    results = queries.results[query] * np.exp(0.1 * random.standard_normal(pages, dtype=np.float32))

    columns: dict[str, pa.Array] = {
        "impression_id": strings(impression_ids(day, first_session * SLOTS, len(ad))),
        "ts": pa.array(spread(start), TIME),
        "ingest_ts": pa.array(spread(start + (lag * SECOND).astype(np.int64)), TIME),
        "user_id": strings(users.ids[spread(user)]),
        "session_id": strings(spread(_numbered(f"s{day:%Y%m%d}-", first_session, pages))),
        "position": pa.array(np.tile(np.arange(1, SLOTS + 1, dtype=np.int8), pages)),
        "traffic": _codes(spread(sessions.random.view(np.int8)), TRAFFIC),
        "price": pa.array(ad_day.price[ad]),
        "discount_pct": pa.array(ads.discount[ad]),
        "rating": pa.array(ads.rating[ad], mask=unknown),
        "review_count": pa.array(ads.reviews[ad], mask=unknown),
        "stock_level": pa.array(ad_day.stock[ad]),
        "title_length": pa.array(ads.title_length[ad]),
        "image_quality": pa.array(ads.image_quality[ad]),
        "ad_age_days": pa.array(ad_day.age[ad]),
        "advertiser_rating": pa.array(world.advertisers.rating[ads.advertiser[ad]]),
        "query_ad_similarity": pa.array(np.clip(similarity / np.float32(4), -1, 1)),
        "user_category_affinity": pa.array(spread(affinity)),
        "user_tenure_days": pa.array(spread(users.tenure[user] + np.int32((day - world.settings.first_day).days))),
        "user_sessions_30d": pa.array(spread(users.sessions_30d[user])),
        "delivery_days": pa.array(ads.delivery_days[ad]),
        "ad_id": strings(ads.ids[ad]),
        "query_id": strings(queries.ids[spread(query)]),
        "category_id": _codes(ad_day.category[ad], CATEGORY_IDS),
        "device_type": _codes(spread(device), DEVICES),
        "geo": _codes(spread(users.geo[user]), GEO, spread(uniform[1] < noise.missing_geo)),
        "hour_of_day": pa.array(spread((sessions.start // MICROSECONDS["h"]).astype(np.int8))),
        "day_of_week": pa.array(np.full(len(ad), day.isoweekday(), np.int8)),
        "page_type": _codes(spread((uniform[2] > 0.7).astype(np.int8) + (uniform[2] > 0.92)), PAGE_TYPES),
        "placement": _codes(spread((uniform[3] > 0.75).astype(np.int8) + (uniform[3] > 0.95)), PLACEMENTS),
        "operating_system": _codes(spread(users.system[user]), SYSTEMS),
        "connection_type": _codes(spread(connection.astype(np.int8)), CONNECTIONS),
        "is_logged_in": pa.array(spread(users.logged_in[user])),
        "session_depth": pa.array(spread(1 + (np.log(1 - uniform[4]) / np.log(0.55)).astype(np.int16))),
        "query_length": pa.array(spread(queries.length[query])),
        "result_count": pa.array(spread(np.maximum(results, 1).astype(np.int32))),
        "advertiser_id": strings(world.advertisers.ids[ads.advertiser[ad]]),
    }
    return pa.table(columns)


def arm_column(arm: NDArray[np.int8]) -> pa.Array:
    """The arm of each row, from the codes [n] of the pages, -1 for none."""
    codes = np.repeat(arm, SLOTS)
    return _codes(np.maximum(codes, 0), ARMS, codes < 0)


def query_ad_match(world: World, query: Integers, ad: Integers) -> Floats:
    """Inner products [n, slots] of the latent vectors of queries [n] and the ads [n, slots] shown for them."""
    wish = world.queries.latent[query]
    match = np.zeros(ad.shape, np.float32)
    for k in range(wish.shape[1]):
        match += wish[:, k, None] * world.ads.latent[:, k][ad]
    return match


def event_table(world: World, ids: Bytes, outcomes: Outcomes, twice: NDArray[np.bool_]) -> pa.Table:
    """The logged events of a chunk.

    ``ids`` [C] are the ids of the clicked impressions, ``twice`` [C] marks those whose events are delivered twice.
    """
    step, click = np.nonzero(outcomes.logged)
    copies = np.flatnonzero(twice[click])
    ingest = outcomes.ingest[step, click]
    ingest = np.concatenate([ingest, ingest[copies] + REDELIVERY_US])
    step, click = np.concatenate([step, step[copies]]), np.concatenate([click, click[copies]])
    return pa.table(
        {
            "impression_id": strings(ids[click]),
            "event_type": _codes(step.astype(np.int8), STEPS[world.settings.funnel]).cast(pa.string()),
            "event_ts": pa.array(outcomes.time[step, click], TIME),
            "ingest_ts": pa.array(ingest, TIME),
        },
        schema=EVENT_SCHEMA,
    )


def truth_table(
    world: World, ids: Bytes, ts: NDArray[np.int64], sessions: Sessions, shown: Shown, outcomes: Outcomes, marks: Marks
) -> pa.Table:
    """What really happened to each of the M impressions of a chunk, shown at ``ts`` [M], and how likely it was."""
    steps = STEPS[world.settings.funnel]
    probability = outcomes.examination * outcomes.relevance
    columns: dict[str, pa.Array] = {
        "impression_id": strings(ids),
        "ts": pa.array(ts, TIME),
        "position": pa.array(np.tile(np.arange(1, SLOTS + 1, dtype=np.int8), len(sessions.start))),
        "traffic": _codes(np.repeat(sessions.random.view(np.int8), SLOTS), TRAFFIC),
        "device_type": _codes(np.repeat(world.users.device[sessions.user], SLOTS), DEVICES),
        "click_probability": pa.array(probability),
        "examination": pa.array(outcomes.examination),
        "relevance": pa.array(outcomes.relevance),
    }
    for number, step in enumerate(steps[1:]):
        columns[f"{step}_probability"] = pa.array(outcomes.step_probability[number])
    for number, step in enumerate(steps):
        time, absent = np.zeros(len(ids), np.int64), np.ones(len(ids), np.bool_)
        happened = outcomes.happened[number]
        time[outcomes.row[happened]] = outcomes.time[number, happened]
        absent[outcomes.row[happened]] = False
        columns[f"{step}_ts"] = pa.array(time, TIME, mask=absent)
    fired, lost = np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.bool_)
    fired[outcomes.row] = (outcomes.logged & ~outcomes.happened).any(axis=0)
    lost[outcomes.row] = (outcomes.happened & ~outcomes.logged).any(axis=0)
    advertiser = world.ads.advertiser[shown.ad.ravel()]
    columns["advertiser_noise"] = _codes(world.advertisers.noise[advertiser], NOISE_KINDS)
    columns["fired"], columns["lost"] = pa.array(fired), pa.array(lost)
    columns["incidents"] = incident_names(world, marks)
    return pa.table(columns)
