"""How often the 95 % intervals that the pipeline prints hold the truth, over simulated worlds.

Each world is drawn anew from a law whose truth is known (`_worlds.py`, `_policy_worlds.py`); every interval is computed as
the pipeline computes it, and the share of the worlds in which it holds the truth is printed, with the Wilson interval of that
share. A world whose rows are too few for an interval has none: its bounds are infinite, and it is counted beside.

Run from the checkout::

    python benchmarks/coverage.py [--worlds 500] [--seed 1] [--only WORD]
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from _machine import machine
from _policy_worlds import BIASED, SEQUENCE, policy_cases
from _worlds import metric_cases

from ctr_pipeline.evaluation import Interval
from ctr_pipeline.evaluation.reliability import wilson

LOW, HIGH = 0.92, 0.98
"""Between which the coverage of a 95 % interval should lie."""

AT_ALL_LOOKS = 0.95
"""From which on the coverage of a confidence sequence at all of its looks together should be."""

FEWEST_WORLDS = 100
"""Worlds with an interval below which its coverage is not known well enough to be held against the limits."""


class Case(Protocol):
    """A law of worlds."""

    name: str

    def truth(self, seed: int) -> Mapping[str, float]:
        """The true value by name of the interval."""

    def intervals(self, seed: int) -> Iterator[tuple[str, Interval | tuple[float, float, float]]]:
        """The intervals of one world by name; with the truth as a third number where each world has its own."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """In how many of the worlds an interval holds the truth."""

    case: str
    interval: str
    worlds: int
    held: int
    below: int
    """Worlds in which the truth lies below the interval; in the others that miss it lies above."""
    without: int
    """Further worlds without an interval."""

    @property
    def share(self) -> float:
        """The coverage."""
        return self.held / self.worlds if self.worlds else float("nan")

    @property
    def as_promised(self) -> bool:
        """Whether the coverage lies within the limits; it does where fewer than 100 worlds have an interval, or nothing is promised."""
        if self.worlds < FEWEST_WORLDS or self.interval.endswith(BIASED):
            return True
        return self.share >= AT_ALL_LOOKS if self.interval.startswith(SEQUENCE) else LOW <= self.share <= HIGH


def measure(cases: Iterable[Case], worlds: int, seed: int) -> Iterator[Coverage]:
    """The coverage of each interval of each case."""
    for case in cases:
        truth = case.truth(seed)
        counts: dict[str, list[int]] = {}
        for number in range(worlds):
            for name, found in case.intervals(seed + 1 + number):
                low, high, value = (found.low, found.high, truth[name]) if isinstance(found, Interval) else found
                count = counts.setdefault(name, [0, 0, 0, 0])
                if not np.isfinite([low, high]).all():
                    count[3] += 1
                    continue
                count[0] += 1
                count[1] += low <= value <= high
                count[2] += value < low
        yield from (Coverage(case.name, name, *count) for name, count in counts.items())


def main() -> int:
    """Measures what the command line asks for and prints it; 1 where the coverage of an interval lies outside the limits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name has this word")
    arguments = parser.parse_args()
    began = time.perf_counter()
    print(f"{arguments.worlds} worlds a row, seed {arguments.seed}; {machine(('numpy', 'scipy'))}\n")
    print(
        "| world | interval | coverage | its 95 % interval | truth below | above | without |\n|---|---|---|---|---|---|---|"
    )
    off = []
    for found in measure(
        (case for case in (*metric_cases(), *policy_cases()) if arguments.only in case.name),
        arguments.worlds,
        arguments.seed,
    ):
        low, high = wilson(np.array([found.held]), np.array([max(found.worlds, 1)]))
        above = found.worlds - found.held - found.below
        mark = "" if found.as_promised else " **"
        print(
            f"| {found.case} | {found.interval} | {found.share:.3f}{mark} | {low[0]:.3f} to {high[0]:.3f} | {found.below} | {above} "
            f"| {found.without} |",
            flush=True,
        )
        off += [] if found.as_promised else [found]
    print(f"\n{time.perf_counter() - began:.0f} s; {len(off)} lie outside {LOW} to {HIGH}")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
