"""How often the gates between a new model and the champion do what they should.

Part `pairs`: pairs of models on the same simulated test rows of seven days, whose users have effects of their own. The scores of
both are the true logits with errors of their own, as those of two trainings have, and calibrated. Of an `equal` pair both have the
same error; of a `worse` one the new model has the larger error that makes its normalised entropy 1 % higher. Of the equal ones at
most 5 % may be called better, of the worse ones at most 1 % may be promoted.

Part `trained`: pairs of logistic regressions, trained on draws of their own of the same law. Such models are equal in law but not
each to each: one of them is truly the better one, by as much as trainings differ.

Part `decay`: years of a champion that is looked at daily: stable ones, and ones with a rise in NE of 3 % after a hundred days.

Run from the checkout::

    python benchmarks/promotion_gates.py [--part pairs] [--pairs 200] [--rows 20000 100000 400000] [--seed 1]
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from _machine import machine
from numpy.typing import NDArray
from scipy import optimize, special

from ctr_pipeline.evaluation import PromotionDecision, PromotionRules, decide_promotion
from ctr_pipeline.evaluation.decay import DailyScore, decay_of
from ctr_pipeline.evaluation.promotion import GATES, Standing
from ctr_pipeline.evaluation.promotion_gates import GateStatus
from ctr_pipeline.evaluation.reliability import wilson

Floats = NDArray[np.float64]
BASE, SIGNAL, USER, ROWS_A_USER = -3.6, 1.1, 0.6, 8
"""Logit of a row without effects, standard deviations of the rows' and users' effects, rows of a user."""

ERROR = 0.25
"""Standard deviation of a model's errors on the logit."""

WORSE = 0.01
RULES = PromotionRules(max_ne_regression=0.01)
DAYS = 7
FEATURES, TRAINED_ON = 30, 40_000


class Scores:
    """Calibrated scores of true logits with an error of a given size."""

    def __init__(self, error: float) -> None:
        self.error = error
        truth = _truth(400_000, np.random.default_rng(0))[0]
        noisy = truth + np.random.default_rng(1).normal(0, error, len(truth))
        chance = special.expit(truth)

        def loss(line: Floats) -> float:
            z = line[0] + line[1] * noisy
            return float(np.mean(np.logaddexp(0, z) - chance * z))

        found = optimize.minimize(loss, np.array([0.0, 1.0]), method="Nelder-Mead")
        self.offset, self.slope, self.loss = float(found.x[0]), float(found.x[1]), float(found.fun)

    def __call__(self, truth: Floats, generator: np.random.Generator) -> Floats:
        """Logits [N] for true ones [N]."""
        return self.offset + self.slope * (truth + generator.normal(0, self.error, len(truth)))


def _truth(rows: int, generator: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """True logits and users."""
    users = max(rows // ROWS_A_USER, 1)
    user = generator.integers(0, users, rows)
    return BASE + generator.normal(0, SIGNAL, rows) + generator.normal(0, USER, users)[user], user


def worse_scores(equal: Scores) -> Scores:
    """Scores whose expected normalised entropy is higher by :data:`WORSE`."""
    error = optimize.brentq(lambda size: Scores(size).loss / equal.loss - 1 - WORSE, equal.error, 1.5, xtol=0.002)
    return Scores(float(error))


def simulated_pairs(
    rows: int, pairs: int, challenger: Scores, champion: Scores, seed: int
) -> Iterator[PromotionDecision]:
    """The decisions on as many pairs."""
    for number in range(pairs):
        generator = np.random.default_rng([seed, rows, number])
        truth, user = _truth(rows, generator)
        labels = (generator.random(rows) < special.expit(truth)).astype(np.int8)
        yield decided(challenger(truth, generator), champion(truth, generator), labels, user, generator)


def trained_pairs(rows: int, pairs: int, seed: int) -> Iterator[PromotionDecision]:
    """The decisions on pairs of logistic regressions, each trained on a draw of its own."""
    weights = np.random.default_rng(seed).normal(0, SIGNAL / np.sqrt(FEATURES), FEATURES)
    for number in range(pairs):
        generator = np.random.default_rng([seed, rows, number, 7])
        models = []
        for _ in range(2):
            inputs = generator.normal(0, 1, (TRAINED_ON, FEATURES))
            unseen = generator.normal(0, USER, TRAINED_ON)
            outcome = generator.random(TRAINED_ON) < special.expit(BASE + inputs @ weights + unseen)
            models.append(_fitted(inputs, outcome))
        user = generator.integers(0, max(rows // ROWS_A_USER, 1), rows)
        inputs = generator.normal(0, 1, (rows, FEATURES))
        effect = generator.normal(0, USER, int(user.max()) + 1)[user]
        labels = (generator.random(rows) < special.expit(BASE + inputs @ weights + effect)).astype(np.int8)
        yield decided(*(model[0] + inputs @ model[1:] for model in models), labels, user, generator)


def _fitted(inputs: Floats, outcome: NDArray[np.bool_]) -> Floats:
    """Intercept and weights by Newton's method with a small ridge."""
    columns = np.column_stack([np.ones(len(inputs)), inputs])
    line = np.zeros(columns.shape[1])
    line[0] = special.logit(outcome.mean())
    for _ in range(6):
        chance = special.expit(columns @ line)
        curve = columns.T @ (columns * (chance * (1 - chance))[:, None]) + np.eye(len(line))
        line = line + np.linalg.solve(curve, columns.T @ (outcome - chance) - line)
    return line


def decided(
    challenger: Floats,
    champion: Floats,
    labels: NDArray[np.int8],
    user: NDArray[np.int64],
    generator: np.random.Generator,
) -> PromotionDecision:
    """All gates on these rows."""
    rows = len(labels)
    return decide_promotion(
        ["click"],
        challenger[:, None],
        champion[:, None],
        labels[:, None],
        user,
        rules=RULES,
        days=generator.integers(0, DAYS, rows),
        random=generator.random(rows) < 0.05,
        slices={"device": generator.integers(0, 3, rows), "position": generator.integers(1, 9, rows)},
    )


def show(kind: str, rows: int, found: Sequence[PromotionDecision]) -> None:
    """A line of what the gates found."""

    def rate(count: int) -> str:
        low, high = wilson(np.array([count]), np.array([len(found)]))
        return f"{count / len(found):.1%} ({low[0]:.1%} to {high[0]:.1%})"

    better = sum(of.standing is Standing.BETTER for of in found)
    first = sum(of.standing is not Standing.WORSE for of in found)
    promoted = sum(of.promote for of in found)
    failed = Counter(gate.name for of in found for gate in of.gates if gate.status is GateStatus.FAILED)
    open_ = Counter(gate.name for of in found for gate in of.gates if gate.status is GateStatus.UNDECIDED)
    cells = " ".join(f"{failed[name]}/{open_[name]}" for name in GATES)
    outcomes = int(np.mean([of.differences["click"].positives for of in found]))
    print(
        f"| {kind} | {rows:,} | {outcomes:,} | {rate(better)} | {rate(first)} | {rate(promoted)} | {cells} |",
        flush=True,
    )


def show_decay(years: int, seed: int) -> None:
    """False alarms of stable years, and how soon a rise of 3 % is seen."""
    print(
        "| error of a day | further spread of days | test days | stable years with an alarm | days until a rise of 3 % is seen: half, nine in ten |"
    )
    print("|---|---|---|---|---|")
    for error, uneven, tested in ((0.01, 0.0, 5), (0.01, 0.0, 7), (0.005, 0.0, 5), (0.01, 0.01, 7), (0.003, 0.0, 5)):
        alarms, delays = 0, []
        for year in range(years):
            stable = _year(seed + year, tested + 365, error, uneven)
            found = decay_of(stable[:tested], stable[tested:], tolerance=RULES.max_ne_regression)
            alarms += found is not None and found.alarmed is not None
            begins = tested + 100
            decayed = _year(seed + year, begins + 60, error, uneven)
            decayed = [replace(day, ne=day.ne * (1.03 if at >= begins else 1.0)) for at, day in enumerate(decayed)]
            found = decay_of(decayed[:tested], decayed[tested:], tolerance=RULES.max_ne_regression)
            seen = found is not None and found.alarmed is not None
            delays.append(int(found.alarmed) - begins + 1 if seen and found is not None else np.inf)  # type: ignore[arg-type]
        half, most = (np.sort(delays)[int(share * years) - 1] for share in (0.5, 0.9))
        low, high = wilson(np.array([alarms]), np.array([years]))
        rate = f"{alarms / years:.1%} ({low[0]:.1%} to {high[0]:.1%})"
        print(f"| {error:.1%} | {uneven:.1%} | {tested} | {rate} | {half:.0f}, {most:.0f} |", flush=True)


def _year(seed: int, days: int, error: float, uneven: float) -> list[DailyScore]:
    generator = np.random.default_rng([seed, 3])
    logs = np.log(0.8) + generator.normal(0, error, days) + generator.normal(0, uneven, days)
    return [DailyScore(day=str(day), ne=float(np.exp(value)), error=error) for day, value in enumerate(logs)]


def main() -> None:
    """Measures what the command line asks for and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=("pairs", "trained", "decay"), default="pairs")
    parser.add_argument("--pairs", type=int, default=200, help="pairs, or years, a line")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000, 400_000])
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.perf_counter()
    print(f"{arguments.pairs} a line, seed {arguments.seed}; {machine(('numpy', 'scipy'))}\n")
    if arguments.part == "decay":
        show_decay(arguments.pairs, arguments.seed)
    else:
        equal = Scores(ERROR)
        kinds: dict[str, Callable[[int], Iterator[PromotionDecision]]] = {
            "trained": lambda rows: trained_pairs(rows, arguments.pairs, arguments.seed)
        }
        if arguments.part == "pairs":
            worse = worse_scores(equal)
            kinds = {
                "equal": lambda rows: simulated_pairs(rows, arguments.pairs, equal, equal, arguments.seed),
                "1 % worse": lambda rows: simulated_pairs(rows, arguments.pairs, worse, equal, arguments.seed),
            }
        print(f"Failed/undecided in the last column: {', '.join(GATES)}.\n")
        print("| pair | test rows | outcomes | called better | gate 1 passed | promoted | failed/undecided |")
        print("|---|---|---|---|---|---|---|")
        for rows in arguments.rows:
            for kind, pairs in kinds.items():
                show(kind, rows, list(pairs(rows)))
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
