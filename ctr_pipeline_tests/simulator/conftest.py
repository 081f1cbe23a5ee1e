"""One simulated log that the statistical tests share."""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from ctr_pipeline.simulator import log_paths, write_days
from ctr_pipeline.simulator.pilot import make_world
from ctr_pipeline.simulator.world import World
from ctr_pipeline.spec.simulator import SimulatorSettings

SETTINGS = SimulatorSettings(
    funnel="credit",
    days=14,
    sessions_per_day=20_000,
    users=5_000,
    queries=2_000,
    advertisers=200,
    ads=1_500,
    random_share=0.25,
)
SEED = 6


@dataclass(frozen=True)
class Log:
    """Impressions with the latent indices of their entities, events, truth, and the world behind them."""

    world: World
    root: Path
    first: date
    last: date
    impressions: pl.DataFrame
    events: pl.DataFrame
    truth: pl.DataFrame


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """1.4 M impressions of a credit marketplace with many random sessions."""
    root = tmp_path_factory.mktemp("marketplace")
    days = [SETTINGS.first_day + timedelta(days=n) for n in range(SETTINGS.days)]
    write_days(SETTINGS, SEED, days, root)
    impressions, events = (pl.read_parquet(path) for path in log_paths(root))
    return Log(
        world=make_world(SETTINGS, SEED),
        root=root,
        first=days[0],
        last=days[-1],
        impressions=impressions,
        events=events,
        truth=pl.read_parquet(root / "truth" / "*.parquet"),
    )
