"""Worlds of users with known truth: what the intervals of the metrics should hold.

A user has an effect of its own on all of its rows, so rows are not independent. The truth of a metric is its value in the
population: of a very large draw, with labels replaced by their probabilities as far as the metric allows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.platt import fit_platt
from ctr_pipeline.evaluation import Interval, evaluate, paired_difference, slice_metrics
from ctr_pipeline.evaluation.metrics import entropy
from ctr_pipeline.evaluation.overdispersion import effective_outcomes
from ctr_pipeline.evaluation.paired_draws import METRICS, interval, resampled
from ctr_pipeline.evaluation.paired_metrics import paired_metrics

Floats = NDArray[np.float64]
POPULATION = 400_000
"""Users of the draw that gives the truth."""

LARGEST_DRAWN = 15_000
"""Rows up to which the slow draws of paired metrics are tried too."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one draw, arrays [N]; a request has up to five rows of one user."""

    logits: Floats
    other: Floats
    probability: Floats
    told: Floats
    """The probability as far as the logit alone tells it, over all users."""
    labels: NDArray[np.int8]
    user: NDArray[np.int64]
    request: NDArray[np.int64]
    part: NDArray[np.int64]
    """Which of four slices a row is in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricWorld:
    """A law of users and their rows.

    Attributes:
        name: What it is called.
        users: Users of one draw.
        rows: Mean rows of a user.
        base: Logit of a row without effects.
        spread: Standard deviation of the users' effects on the logit.
        noise: Standard deviation of what the second model adds to the first one's logits.
    """

    name: str
    users: int
    rows: float
    base: float
    spread: float
    noise: float = 0.3

    def draw(self, users: int, generator: np.random.Generator) -> Rows:
        """The rows of new users, few of whom have many."""
        counts = 1 + generator.negative_binomial(1, 1 / self.rows, users)
        user = np.repeat(np.arange(users), counts)
        place = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
        effect = generator.normal(0, self.spread, users)[user]
        signal = generator.normal(0, 1, len(user))
        part = generator.integers(0, 4, len(user))
        probability = special.expit(self.base + signal + effect + 0.2 * (part == 0))
        logits = self.base + 0.9 * signal + 0.4 * effect + 0.2
        return Rows(
            logits=logits,
            other=logits + generator.normal(0, self.noise, len(user)),
            probability=probability,
            told=self._told(logits),
            labels=(generator.random(len(user)) < probability).astype(np.int8),
            user=user,
            request=user * 10_000 + place // 5,
            part=part,
        )

    def _told(self, logits: Floats) -> Floats:
        """[N] the rate among all rows of such a logit: a user's own effect, and the signal, are known from it in part only."""
        seen, spread = logits - self.base - 0.2, self.spread**2
        slope = (0.9 + 0.4 * spread) / (0.9**2 + 0.4**2 * spread)
        left = np.sqrt(1 + spread - slope * (0.9 + 0.4 * spread))
        nodes, weights = np.polynomial.hermite_e.hermegauss(12)
        found = np.zeros(len(logits))
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            centre = self.base + slope * seen + left * node
            found += weight * (0.75 * special.expit(centre) + 0.25 * special.expit(centre + 0.2))
        return found

    def truth(self, seed: int) -> Mapping[str, float]:
        """The values in the population."""
        rows = self.draw(POPULATION, np.random.default_rng([seed, 0]))
        base = entropy(float(rows.probability.mean()))
        own, other = _Expected.of(rows.logits, rows), _Expected.of(rows.other, rows)
        grouped = evaluate_groups(rows)
        parts = {
            f"O/E of a slice: {part}": float(rows.probability[at].sum() / special.expit(rows.logits[at]).sum())
            for part in range(4)
            for at in [rows.part == part]
        }
        return {
            "AUC": own.auc,
            "AP": own.ap,
            "log loss": own.loss,
            "NE": own.loss / base,
            "O/E": float(rows.probability.sum() / special.expit(rows.logits).sum()),
            "O/E, calibrated": 1.0,
            "difference in NE": (other.loss - own.loss) / base,
            "relative difference in NE": other.loss / own.loss - 1,
            "relative difference in NE of a promotion": other.loss / own.loss - 1,
            "difference in AUC": other.auc - own.auc,
            "difference in AP": other.ap - own.ap,
            "NE difference of paired draws": (other.loss - own.loss) / base,
            "AUC difference of paired draws": other.auc - own.auc,
            **grouped,
            **parts,
        }

    def intervals(self, seed: int) -> Iterator[tuple[str, Interval | tuple[float, float, float]]]:
        """Those of one draw."""
        generator = np.random.default_rng([seed, 1])
        rows = self.draw(self.users, generator)
        found = evaluate(rows.logits, rows.labels, rows.user, rows.request, seed=seed)
        for name, value in (
            ("AUC", found.auc),
            ("AP", found.ap),
            ("log loss", found.log_loss),
            ("NE", found.ne),
            ("O/E", found.oe),
        ):
            if value is not None:
                yield name, value
        if found.user_auc is not None and found.user_auc.auc is not None:
            yield "user AUC", found.user_auc.auc
        if found.grouped_auc is not None and found.grouped_auc.auc is not None:
            yield "AUC within requests", found.grouped_auc.auc
        if found.group_order is not None and found.group_order.ndcg is not None and found.group_order.mrr is not None:
            yield "nDCG", found.group_order.ndcg
            yield "MRR", found.group_order.mrr
        difference = paired_difference(rows.other, rows.logits, rows.labels, rows.user, seed=seed)
        if difference is not None:
            yield "difference in NE", difference.absolute
            yield "relative difference in NE", difference.relative
        paired = paired_metrics(rows.other, rows.logits, rows.labels, rows.user)
        if paired is not None:
            yield "relative difference in NE of a promotion", paired.relative_ne.interval()
            yield "difference in AUC", paired.auc.interval()
            yield "difference in AP", paired.ap.interval()
        for part in slice_metrics(rows.logits, rows.labels, {"part": rows.part}, rows.user):
            yield f"O/E of a slice: {part.value}", part.oe
        ordered, start, gap = rows.told[np.argsort(rows.logits, kind="stable")], 0, 0.0
        for bin_ in found.bins:
            true = float(ordered[start : start + bin_.rows].mean())
            yield "rate of a bin", (bin_.low, bin_.high, true)
            start, gap = start + bin_.rows, gap + bin_.rows / len(ordered) * abs(true - bin_.predicted)
        if found.ece is not None:
            yield "calibration error", (found.ece.low, found.ece.high, gap)
        learnt = self.draw(self.users // 2, generator)
        if 0 < learnt.labels.sum() < len(learnt.labels):
            platt = fit_platt(learnt.logits, learnt.labels)
            taught = effective_outcomes(platt.apply(learnt.logits), learnt.labels, learnt.user)
            calibrated = evaluate(platt.apply(rows.logits), rows.labels, rows.user, seed=seed, calibrated_on=taught).oe
            if calibrated is not None:
                yield "O/E, calibrated", calibrated
        if len(rows.labels) > LARGEST_DRAWN:
            return
        own, other = (
            resampled(logits, rows.labels, rows.user, seed=seed, replicates=100) for logits in (rows.logits, rows.other)
        )
        yield "NE difference of paired draws", interval(other[:, METRICS.index("NE")] - own[:, METRICS.index("NE")])
        yield "AUC difference of paired draws", interval(other[:, METRICS.index("AUC")] - own[:, METRICS.index("AUC")])


def evaluate_groups(rows: Rows) -> dict[str, float]:
    """The values within users and requests of a very large draw."""
    from ctr_pipeline.evaluation.group_ranking import group_ranking
    from ctr_pipeline.evaluation.within_groups import grouped_metrics

    user = grouped_metrics(rows.logits, rows.labels, rows.user).auc
    request = grouped_metrics(rows.logits, rows.labels, rows.request).auc
    order = group_ranking(rows.logits, rows.labels, rows.request)
    assert user is not None
    assert request is not None
    assert order.ndcg is not None
    assert order.mrr is not None
    return {
        "user AUC": user.value,
        "AUC within requests": request.value,
        "nDCG": order.ndcg.value,
        "MRR": order.mrr.value,
    }


@dataclass(frozen=True, slots=True)
class _Expected:
    """Metrics of very many rows whose labels are not drawn yet."""

    auc: float
    ap: float
    loss: float

    @classmethod
    def of(cls, logits: Floats, rows: Rows) -> "_Expected":
        order = np.argsort(-logits, kind="stable")
        hits, misses = rows.probability[order], 1 - rows.probability[order]
        above = np.cumsum(hits)
        return cls(
            auc=float(np.sum(misses * (above - hits / 2)) / (hits.sum() * misses.sum())),
            ap=float(np.sum(hits * above / np.arange(1, len(hits) + 1)) / hits.sum()),
            loss=float(np.mean(np.logaddexp(0, logits) - rows.probability * logits)),
        )


def metric_cases() -> list[MetricWorld]:
    """From some 70 outcomes to some 2,300; of 0.8 % of the rows to 9 %."""
    return [
        MetricWorld(name="metrics, few outcomes", users=600, rows=6, base=-4.6, spread=0.7),
        MetricWorld(name="metrics, small", users=1000, rows=8, base=-3.2, spread=0.7),
        MetricWorld(name="metrics, rare", users=4000, rows=6, base=-5.6, spread=0.7),
        MetricWorld(name="metrics, medium", users=4000, rows=8, base=-3.2, spread=0.7),
        MetricWorld(name="metrics, heavy users", users=800, rows=30, base=-3.2, spread=1.2),
    ]
