"""Writes the logs of simulated days: a file a day and log, the same bytes whenever and in whatever order."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_pipeline.simulator.auction import draw_sessions, hold_auction, open_market, session_starts
from ctr_pipeline.simulator.columns import (
    UNREPEATED,
    arm_column,
    draw_ad_day,
    event_table,
    impression_ids,
    impression_table,
    truth_table,
)
from ctr_pipeline.simulator.experiment import arms_of_users, effects_of_day
from ctr_pipeline.simulator.incidents import DayIncidents, deliver_twice
from ctr_pipeline.simulator.laws import SLOTS
from ctr_pipeline.simulator.outcome_draws import draw_outcomes
from ctr_pipeline.simulator.pilot import make_world
from ctr_pipeline.simulator.world import DAY, World, stream
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.simulator import SimulatorSettings

SESSIONS_AT_ONCE = 20_000
"""Pages simulated together: bounds the memory, and is part of the world, since each chunk has its own random numbers."""


PARTIAL = ".partial"
"""Ending of a file that is being written."""


def log_paths(root: Path) -> tuple[Path, Path]:
    """Globs of the impression log and of the event log below ``root``."""
    return root / "impressions" / "*.parquet", root / "events" / "*.parquet"


def day_files(root: Path, day: date) -> tuple[Path, Path]:
    """The impression file and the event file of ``day``. The events are those of the day's impressions."""
    return root / "impressions" / f"{day}.parquet", root / "events" / f"{day}.parquet"


def truth_file(root: Path, day: date) -> Path:
    """The file with what truly happened on ``day``, which is no log: nothing of the pipeline may read it."""
    return root / "truth" / f"{day}.parquet"


def write_day(settings: SimulatorSettings, seed: int, day: date, root: Path) -> None:
    """Writes the impressions of ``day``, all events that ever follow from them, and the truth, replacing earlier files.

    A file appears whole or not at all. Its bytes depend on ``settings``, ``seed`` and ``day`` alone.

    Raises:
        SimulatorError: ``day`` is outside the simulated period.
    """
    world = make_world(settings, seed)
    world.day_index(day)
    impression_file, event_file = day_files(root, day)
    events = []
    with ExitStack() as files:
        add_impressions, add_events, add_truth = (
            files.enter_context(_parquet(file)) for file in (impression_file, event_file, truth_file(root, day))
        )
        for chunk in _simulate(world, day):
            add_impressions(chunk.impressions)
            add_truth(chunk.truth)
            events.append(chunk.events)
        order = [(column, "ascending") for column in ("ingest_ts", "impression_id", "event_ts")]
        add_events(pa.concat_tables(events).sort_by(order))


def write_days(
    settings: SimulatorSettings,
    seed: int,
    days: Sequence[date],
    root: Path,
    progress: Callable[[date], None] | None = None,
    threads: int = 2,
) -> None:
    """Writes those of ``days`` that are not yet written, some at a time.

    Parts of files that a killed process left in these folders are removed.

    ``progress`` is called in the calling thread with each of ``days``, in order, once its files are there.
    """
    make_world(settings, seed)
    _sweep(root)

    def write_missing(day: date) -> date:
        if not all(file.exists() for file in (*day_files(root, day), truth_file(root, day))):
            write_day(settings, seed, day, root)
        return day

    with ThreadPoolExecutor(max_workers=threads) as pool:
        for day in pool.map(write_missing, days):
            if progress is not None:
                progress(day)


@dataclass(frozen=True, slots=True)
class _Chunk:
    impressions: pa.Table
    events: pa.Table
    truth: pa.Table


def _simulate(world: World, day: date) -> Iterator[_Chunk]:
    """The day's pages, chunk by chunk in time order."""
    index, key = world.day_index(day), day.toordinal()
    incidents = DayIncidents(world, day)
    categories, moved = incidents.ad_categories()
    head = stream(world.seed, DAY, key, 0)
    starts = session_starts(world.settings.sessions_per_day, head)
    ad_day = draw_ad_day(world, index, categories, head)
    market = open_market(world, index)
    arms = arms_of_users(world)
    midnight = (day - date(1970, 1, 1)).days * DAY_US
    for chunk, first in enumerate(range(0, len(starts), SESSIONS_AT_ONCE)):
        start = starts[first : first + SESSIONS_AT_ONCE]
        ts = np.repeat(midnight + start, SLOTS)
        random = stream(world.seed, DAY, key, 1 + chunk)
        sessions = draw_sessions(world, len(start), world.settings.random_share, random, start)
        sessions, bots, redirected = incidents.redirect(sessions, chunk)
        shown = hold_auction(world, market, sessions, random)
        effects = effects_of_day(world, day, sessions, arms)
        outcomes = draw_outcomes(world, shown, ts, bots, random, effects)
        outcomes, disturbed = incidents.meddle(outcomes)
        twice, repeated = incidents.twice(start, chunk)
        impressions = impression_table(world, day, first, sessions, shown, ad_day, random)
        if effects is not None:
            impressions = impressions.append_column("experiment_arm", arm_column(effects.arm))
        impressions, distorted = incidents.distort(impressions, chunk)

        marks = np.repeat(redirected | repeated, SLOTS) | moved[shown.ad.ravel()] | np.int32(distorted)
        marks[outcomes.row] |= disturbed
        ids = impression_ids(day, first * SLOTS, len(start) * SLOTS)
        yield _Chunk(
            impressions=deliver_twice(impressions, twice),
            events=event_table(world, ids[outcomes.row], outcomes, np.repeat(twice, SLOTS)[outcomes.row]),
            truth=truth_table(world, ids, ts, sessions, shown, outcomes, marks),
        )


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Gives a function that appends a table to ``path``; the file takes its place when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=PARTIAL, dir=path.parent)
    # Held until the file has its place; the kernel lets go of it however the process ends.
    fcntl.flock(handle, fcntl.LOCK_EX)
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
        os.close(handle)


def _sweep(root: Path) -> None:
    """Removes the parts of files whose writer has ended: their lock is free."""
    for partial in root.glob(f"*/.*{PARTIAL}"):
        try:
            with partial.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
        except (FileNotFoundError, BlockingIOError):
            continue
