"""Online tests that are looked at every day: do they find the planned effect as often as stated, and nothing where there is nothing?

Each simulated test is planned with the 14 days before it (users who come again, CUPED with the 14 days before those), for a
difference that a test with daily looks finds after 21 days. It is read on each day whose outcomes are settled, until its
decision or the planned precision, as `ctr experiment read` does.

Run from the checkout::

    python benchmarks/experiments.py [--experiments 500] [--worlds 5] [--kinds made_up slower marketplace]

Kinds: ``made_up`` users have a pace and a rate of their own; of ``slower`` ones the treatment's outcomes come later too, as many
of them; ``marketplace`` has the pages, users and click probabilities of the simulator, arms by the hash that serves.
A row gives the share of tests with 95 % Wilson intervals: wrong decisions with daily looks where there is no effect (at most
alpha), the same by the interval of a single look at its planned day (alpha) and at every day (much more), the same with daily
looks at rows that are not settled too (more where outcomes of the treatment are slower), the planned effect
found with daily looks until the planned end, and by a single look (both at least the power), the share of the planned days
that daily looks took, and coverage of the truth by the confidence sequence at all looks together.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from _experiment_worlds import DAYS_BEFORE, Draw, Traffic, begin, worlds
from _machine import machine

from ctr_pipeline.experiments.reading import Decision, Reading, read_test
from ctr_pipeline.experiments.returning_users import Halves, Returning, size_with_returning
from ctr_pipeline.experiments.sample_size import Rule, SizeOfTest, UserTotals, deviations

DAYS, LONGEST = 21, 42
"""Days for which the test is planned, and after which it is given up."""

FIRST_LOOK = 3
"""Days after which the test is read first: the intervals need some hundred users with outcomes."""

MATURITY_DAYS = 2
"""Days whose outcomes are still coming in."""


@dataclass
class Tally:
    """Counts over the tests of a kind."""

    tests: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    share_of_days: list[float] = field(default_factory=list)

    def add(self, **found: bool) -> None:
        """Another test."""
        self.tests += 1
        for name, value in found.items():
            self.counts[name] = self.counts.get(name, 0) + int(value)


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z, share = 1.959963984540054, count / total
    middle, half = share + z**2 / (2 * total), z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return float((middle - half) / (1 + z**2 / total)), float((middle + half) / (1 + z**2 / total))


def totals(traffic: Traffic, own: np.ndarray, first: int, last: int, unsettled: int = 0) -> UserTotals:
    """What the users in ``own`` did on the days [first, last), beside what they did in the 14 days before.

    Of ``unsettled`` further days the rows are there, and the outcomes that came at once.
    """
    rows = traffic.rows_within(first, last + unsettled)
    outcomes = traffic.outcomes_within(first, last)
    if unsettled:
        outcomes = outcomes + traffic.early[:, last : last + unsettled].sum(axis=1)
    past = traffic.outcomes_within(first - DAYS_BEFORE, first), traffic.rows_within(first - DAYS_BEFORE, first)
    before, there = deviations(*past), own & (rows > 0)
    return UserTotals.of(outcomes[there], rows[there], before[there])


def planned(traffic: Traffic) -> SizeOfTest:
    """The test for the effect that daily looks find after DAYS days, planned with the days before it."""
    every, first, last = np.ones(len(traffic.rows), dtype=bool), DAYS_BEFORE, begin()
    middle = (first + last) // 2
    sides = [(first, middle), (middle, last)]
    outcomes, rows = (
        tuple(part[:, start:end].sum(axis=1) for start, end in sides) for part in (traffic.outcomes, traffic.rows)
    )
    seen = (traffic.rows[:, first:last].cumsum(axis=1) > 0).sum(axis=0)
    users = Returning.of(Halves(outcomes=outcomes, trials=rows, days=(middle - first, last - middle)), seen)
    explained = totals(traffic, every, first, last).explained()
    low, high = 0.001, 10.0
    for _ in range(40):
        relative = float(np.sqrt(low * high))
        days = size_with_returning(users, Rule(relative=relative), explained=explained).sequential_days
        low, high = (relative, high) if days is None or days > DAYS else (low, relative)
    return size_with_returning(users, Rule(relative=high), explained=explained)


def looks(traffic: Traffic, size: SizeOfTest, quantiles: float, unsettled: int = 0) -> list[Reading]:
    """A reading at the end of each settled day from the third, until the planned precision."""
    found: list[Reading] = []
    for day in range(FIRST_LOOK, LONGEST + 1):
        arms = [totals(traffic, own, begin(), begin() + day, unsettled) for own in (traffic.treated, ~traffic.treated)]
        found.append(read_test(*arms, planned_error=size.difference / quantiles, alpha=size.rule.alpha))
        if found[-1].information >= 1:
            break
    return found


def outside(reading: Reading) -> bool:
    """Whether the interval of a single look says that there is a difference."""
    return not reading.difference.low <= 0 <= reading.difference.high


def try_world(draw: Draw, tests: int, seed: int, tally: Tally) -> None:
    """Tests without and with the planned effect in one world."""
    random = np.random.default_rng(seed)
    # Rows of the last days are there, and their outcomes are not settled: as on any day of a real test.
    days = begin() + LONGEST + MATURITY_DAYS
    size = planned(draw(random, days, 0.0, "plan"))
    any_look, one_look = size.rule.sequential_quantiles, size.rule.quantiles
    for number in range(tests):
        nothing = draw(random, days, 0.0, f"none {seed} {number}")
        something = draw(random, days, size.rule.relative, f"some {seed} {number}")
        none, some = looks(nothing, size, any_look), looks(something, size, any_look)
        open_too = looks(nothing, size, any_look, MATURITY_DAYS) if nothing.early is not nothing.outcomes else none
        single = [looks(traffic, size, one_look)[-1] for traffic in (nothing, something)]
        ends = [place for place, found in enumerate(some) if found.decision is Decision.BETTER]
        tally.share_of_days.append(((ends or [len(some) - 1])[0] + FIRST_LOOK) / DAYS)
        tally.add(
            wrong=any(found.decision is not Decision.GO_ON for found in none),
            wrong_single=outside(single[0]),
            wrong_naive=any(outside(found) for found in none),
            wrong_unsettled=any(found.decision is not Decision.GO_ON for found in open_too),
            found=bool(ends),
            found_single=single[1].difference.low > 0,
            covered=all(found.always.low <= 0 <= found.always.high for found in none),
        )


def measured(kind: str, world_count: int, experiments: int) -> Tally:
    """All tests of a kind."""
    tally = Tally()
    for seed, draw in enumerate(worlds(kind, world_count, begin() + LONGEST + MATURITY_DAYS)):
        try_world(draw, experiments // world_count, seed, tally)
    return tally


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=500, help="tests of each kind, without and with the effect")
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=["made_up", "slower", "marketplace"])
    options = parser.parse_args(arguments)
    print(machine())
    for kind in options.kinds:
        start = time.perf_counter()
        tally = measured(kind, options.worlds, options.experiments)
        print(f"{kind}: {tally.tests} tests without and with the effect, {time.perf_counter() - start:.0f} s")
        for name, count in tally.counts.items():
            low, high = wilson(count, tally.tests)
            print(f"  {name:14} {count / tally.tests:.3f} [{low:.3f}, {high:.3f}]")
        print(f"  share of the planned days with the effect: mean {np.mean(tally.share_of_days):.2f}")


if __name__ == "__main__":
    main()
