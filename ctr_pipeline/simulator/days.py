"""Writes the logs of simulated days: a file a day and log, the same bytes whenever and in whatever order."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_pipeline.simulator.auction import draw_sessions, hold_auction, open_market, session_starts
from ctr_pipeline.simulator.columns import (
    UNREPEATED,
    draw_ad_day,
    event_table,
    impression_ids,
    impression_table,
)
from ctr_pipeline.simulator.laws import SLOTS
from ctr_pipeline.simulator.outcomes import draw_outcomes
from ctr_pipeline.simulator.pilot import make_world
from ctr_pipeline.simulator.world import DAY, World, stream
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.simulator import SimulatorSettings

SESSIONS_AT_ONCE = 20_000
"""Pages simulated together: bounds the memory, and is part of the world, since each chunk has its own random numbers."""


def log_paths(root: Path) -> tuple[Path, Path]:
    """Globs of the impression log and of the event log below ``root``."""
    return root / "impressions" / "*.parquet", root / "events" / "*.parquet"


def day_files(root: Path, day: date) -> tuple[Path, Path]:
    """The impression file and the event file of ``day``. The events are those of the day's impressions."""
    return root / "impressions" / f"{day}.parquet", root / "events" / f"{day}.parquet"


def write_day(settings: SimulatorSettings, seed: int, day: date, root: Path) -> None:
    """Writes the impressions of ``day`` and all events that ever follow from them, replacing earlier files.

    A file appears whole or not at all. Its bytes depend on ``settings``, ``seed`` and ``day`` alone.

    Raises:
        SimulatorError: ``day`` is outside the simulated period.
    """
    world = make_world(settings, seed)
    world.day_index(day)
    impression_file, event_file = day_files(root, day)
    events = []
    with _parquet(event_file) as write_events:
        with _parquet(impression_file) as write_impressions:
            for impressions, of_chunk in _simulate(world, day):
                write_impressions(impressions)
                events.append(of_chunk)
        ordered = pa.concat_tables(events).sort_by(
            [("ingest_ts", "ascending"), ("impression_id", "ascending"), ("event_ts", "ascending")]
        )
        write_events(ordered)


def write_days(
    settings: SimulatorSettings,
    seed: int,
    days: Sequence[date],
    root: Path,
    progress: Callable[[date], None] | None = None,
    threads: int = 2,
) -> None:
    """Writes those of ``days`` that are not yet written, some at a time.

    ``progress`` is called in the calling thread with each of ``days``, in order, once its files are there.
    """
    make_world(settings, seed)

    def write_missing(day: date) -> date:
        if not all(file.exists() for file in day_files(root, day)):
            write_day(settings, seed, day, root)
        return day

    with ThreadPoolExecutor(max_workers=threads) as pool:
        for day in pool.map(write_missing, days):
            if progress is not None:
                progress(day)


def _simulate(world: World, day: date) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Impressions and their events, chunk by chunk in time order."""
    index, key = world.day_index(day), day.toordinal()
    head = stream(world.seed, DAY, key, 0)
    starts = session_starts(world.settings.sessions_per_day, head)
    ad_day = draw_ad_day(world, index, head)
    market = open_market(world, index)
    midnight = (day - date(1970, 1, 1)).days * DAY_US
    for chunk, first in enumerate(range(0, len(starts), SESSIONS_AT_ONCE)):
        start = starts[first : first + SESSIONS_AT_ONCE]
        random = stream(world.seed, DAY, key, 1 + chunk)
        sessions = draw_sessions(world, len(start), world.settings.random_share, random, start)
        shown = hold_auction(world, market, sessions, random)
        outcomes = draw_outcomes(world, shown, np.repeat(midnight + start, SLOTS), random)
        impressions = impression_table(world, day, first, sessions, shown, ad_day, random)
        ids = impression_ids(day, first * SLOTS, len(start) * SLOTS)[outcomes.row]
        yield impressions, event_table(world, ids, outcomes)


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Gives a function that appends a table to ``path``; the file takes its place when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".partial", dir=path.parent)
    os.close(handle)
    writer: pq.ParquetWriter | None = None

    def append(table: pa.Table) -> None:
        nonlocal writer
        if writer is None:
            writer = pq.ParquetWriter(
                partial,
                table.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=[name for name in table.column_names if name not in UNREPEATED],
                store_schema=False,
            )
        writer.write_table(table)

    try:
        yield append
        if writer is not None:
            writer.close()
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
