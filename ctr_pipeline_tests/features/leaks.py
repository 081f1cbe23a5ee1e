"""Does the future leak? Rows that arrive at or after an instant are deleted, altered and added; nothing may change.

To test a table or a feature, write a function that builds it as of an instant from a log, and hand it to
:func:`assert_future_invariant` with some worlds. To see that the device would notice, plant a leak: hand over the same
function with one of :data:`LEAKS`, and expect :class:`LeakError`.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import polars as pl

DAY = 86_400_000_000
HOUR = DAY // 24


class LeakError(AssertionError):
    """What arrived at or after the instant changed what was built as of it."""


@dataclass(frozen=True)
class Log:
    """Rows of the tables impressions and outcome_events; of the first, any columns besides the usual ones."""

    impressions: pl.DataFrame
    events: pl.DataFrame


Build: TypeAlias = Callable[[Log, int], pl.DataFrame]
"""Builds a table from all rows of a log as of an instant: from what arrived before it, if it is honest."""


def assert_future_invariant(build: Build, worlds: Iterable[tuple[Log, int]]) -> None:
    """Builds each world as of its instant, then with other futures, and compares the bytes.

    Raises:
        LeakError: what was built differs; the message says after which change, and shows the first rows that differ.
    """
    for number, (log, instant) in enumerate(worlds):
        assert_same(build, log, instant, other_futures(log, instant, seed=number))


def assert_same(build: Build, log: Log, instant: int, others: Iterable[tuple[str, Log]]) -> None:
    """Asserts that ``build`` makes the same bytes of ``log`` and of each of the ``others``."""
    built = build(log, instant)
    assert built.height > 0, "nothing was built, so nothing is tested"
    for change, other in others:
        again = build(other, instant)
        if table_bytes(again) != table_bytes(built):
            raise LeakError(f"{change}:\n{built.join(again, on=built.columns, how='anti', nulls_equal=True).head(5)}")


def table_bytes(frame: pl.DataFrame) -> bytes:
    """The rows as an Arrow IPC file, in an order of their own."""
    # Made anew, because what lies beneath a null, or beside the text of a view, is no part of the rows.
    anew = pl.DataFrame(frame.sort(frame.columns).rows(), schema=frame.schema, orient="row")
    target = io.BytesIO()
    anew.write_ipc(target, compression="uncompressed", compat_level=pl.CompatLevel.oldest())
    return target.getvalue()


def other_futures(log: Log, instant: int, seed: int) -> Iterator[tuple[str, Log]]:
    """Logs that differ from ``log`` only in rows that arrive at or after ``instant``, each with what was done."""
    draw = np.random.default_rng(seed)
    late = pl.col("ingest_ts") >= instant
    past = Log(log.impressions.filter(~late), log.events.filter(~late))
    future = Log(log.impressions.filter(late), log.events.filter(late))
    assert past.impressions.height > 5 < past.events.height, "hardly a past to look at"
    assert future.impressions.height > 0 < future.events.height, "no future to change"
    altered, added = _altered(log, future, draw), _added(past, instant, draw)
    yield "the future was deleted", past
    yield "the future was altered", _together(past, altered)
    yield "a future was added", _together(past, future, added)
    half = Log(*(rows.gather_every(2) for rows in (altered.impressions, altered.events)))
    yield "the future was deleted in part, altered and added to", _together(past, half, added)


def _altered(log: Log, future: Log, draw: np.random.Generator) -> Log:
    """The same arrivals, of other things: other times, past ones too; other keys, numbers and outcomes."""
    shown = future.impressions
    rest = [name for name in shown.columns if name not in ("impression_id", "ts", "ingest_ts", "day")]
    moved = shown.select(
        "impression_id",
        "ingest_ts",
        pl.Series("ts", draw.choice(log.impressions["ts"], shown.height)),
        *(_shuffled(shown[name], draw) for name in rest),
    )
    moved = moved.with_columns(pl.selectors.float() * 100)
    happened = future.events
    others = happened.with_columns(
        pl.Series("impression_id", draw.choice(log.impressions["impression_id"], happened.height)),
        pl.Series("event_ts", draw.choice(log.events["event_ts"], happened.height)),
        _shuffled(happened["event"], draw),
    )
    return Log(_on_its_day(moved).select(shown.columns), others.select(happened.columns))


def _added(past: Log, instant: int, draw: np.random.Generator) -> Log:
    """Late arrivals: impressions and outcomes of the past, and of the instant itself, that arrive from it on."""
    shown, happened = past.impressions, past.events
    rows = shown.sample(shown.height // 2 + 1, seed=int(draw.integers(2**31)))
    new = rows.with_columns(
        impression_id=pl.lit("new ") + pl.col("impression_id").cast(pl.String),
        ts=pl.Series(draw.integers(shown["ts"].min(), instant, rows.height, endpoint=True)),
        ingest_ts=pl.Series(_arrivals(instant, rows.height, draw)),
    )
    who = pl.concat([shown.select("impression_id", "ts"), new.select("impression_id", "ts")])
    delay = np.where(draw.random(who.height) < 0.5, 0, draw.integers(0, 2 * DAY, who.height))
    outcomes = [
        who.select(
            "impression_id",
            event=pl.lit(event),
            kind=pl.lit("outcome"),
            event_ts=pl.col("ts") + pl.Series(delay),
            ingest_ts=pl.Series(_arrivals(instant, who.height, draw)),
        )
        for event in sorted(set(happened["event"]))
    ]
    return Log(
        _on_its_day(new).select(shown.columns),
        pl.concat(outcomes).select(happened.columns),
    )


def _arrivals(instant: int, size: int, draw: np.random.Generator) -> np.ndarray:
    """Many of them at the very instant."""
    return instant + draw.choice([0, 0, 1, HOUR, 3 * DAY], size)


def _shuffled(values: pl.Series, draw: np.random.Generator) -> pl.Series:
    return values.gather(draw.permutation(len(values)))


def _on_its_day(impressions: pl.DataFrame) -> pl.DataFrame:
    return impressions.with_columns(day=pl.from_epoch("ts", "us").dt.date())


def _together(*parts: Log) -> Log:
    return Log(
        pl.concat([part.impressions for part in parts]),
        pl.concat([part.events for part in parts]),
    )


# Leaks to plant. Each makes a dishonest builder of an honest one, by showing it the log as the mistake would see it.


def _seen_through(view: Callable[[Log], Log]) -> Callable[[Build], Build]:
    return lambda build: lambda log, instant: build(view(log), instant)


def _at_the_instant(log: Log) -> Log:
    """As if ``<=`` stood where ``<`` belongs."""
    earlier = pl.col("ingest_ts") - 1
    return Log(log.impressions.with_columns(ingest_ts=earlier), log.events.with_columns(ingest_ts=earlier))


def _by_event_time(log: Log) -> Log:
    """As if events were read by the time at which they happened, not by that at which they arrived."""
    return Log(log.impressions, log.events.with_columns(ingest_ts=pl.min_horizontal("ingest_ts", "event_ts")))


def _by_time_shown(log: Log) -> Log:
    """As if impressions were read by the time at which they were shown."""
    return Log(log.impressions.with_columns(ingest_ts=pl.min_horizontal("ingest_ts", "ts")), log.events)


LEAKS: dict[str, Callable[[Build], Build]] = {
    "what arrives at the very instant": _seen_through(_at_the_instant),
    "event time for arrival": _seen_through(_by_event_time),
    "time shown for arrival": _seen_through(_by_time_shown),
    "a day ahead": lambda build: lambda log, instant: build(log, instant + DAY),
}
