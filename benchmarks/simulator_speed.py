"""Speed and peak memory of the simulator at a million impressions a day.

Run from the checkout: ``python benchmarks/simulator_speed.py [--days 6] [--sessions 200000] [--threads 2]``. The files
(impressions, events, truth) go to a temporary folder and are removed at the end.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from _machine import machine

from ctr_pipeline.simulator import write_days
from ctr_pipeline.simulator.laws import SLOTS
from ctr_pipeline.simulator.pilot import make_world
from ctr_pipeline.spec.simulator import SimulatorSettings


def peak_gibibytes() -> float:
    """Largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    """Writes some days and prints a line for each measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--sessions", type=int, default=200_000, help="sessions a day, five impressions each")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    settings = SimulatorSettings(sessions_per_day=arguments.sessions)
    days = [settings.first_day + timedelta(days=n) for n in range(arguments.days)]

    began = time.perf_counter()
    make_world(settings, 7)
    made = time.perf_counter()
    root = Path(tempfile.mkdtemp(prefix="simulator-speed-"))
    try:
        write_days(settings, 7, days, root, threads=arguments.threads)
        written = time.perf_counter()
        size = sum(file.stat().st_size for file in root.rglob("*.parquet"))
    finally:
        shutil.rmtree(root)
    impressions = len(days) * arguments.sessions * SLOTS
    print(f"machine            {machine(('numpy', 'pyarrow'))}")
    print(f"impressions        {impressions:,} in {len(days)} days, {arguments.threads} threads")
    print(f"world made in      {made - began:.1f} s")
    print(f"impressions/second {impressions / (written - made):,.0f}, Parquet files included")
    print(f"bytes/impression   {size / impressions:.1f}")
    print(f"peak memory        {peak_gibibytes():.2f} GiB")


if __name__ == "__main__":
    main()
