"""Every metric beside an implementation of somebody else's, or the plainest one, on ties, one class, weights and empty groups."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy import special, stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    ndcg_score,
    roc_auc_score,
)

from ctr_pipeline.evaluation import RowGroups, TaskMetrics, evaluate_rows, metrics
from ctr_pipeline.evaluation.decision_value import ActionCosts
from ctr_pipeline.evaluation.decomposition import decomposed_brier, decomposed_log_loss

COSTS = ActionCosts(cost=1.0, value=4.0)


@dataclass(frozen=True)
class Case:
    """Rows, as they are given."""

    logits: np.ndarray
    labels: np.ndarray
    users: np.ndarray
    sessions: np.ndarray
    requests: np.ndarray

    @property
    def z(self) -> np.ndarray:
        """Logits of the settled rows."""
        return self.logits[self.labels >= 0]

    @property
    def y(self) -> np.ndarray:
        return self.labels[self.labels >= 0]

    @property
    def p(self) -> np.ndarray:
        return special.expit(self.z)

    @property
    def both(self) -> bool:
        return len(set(self.y.tolist())) == 2


def case(seed: int, n: int = 400, digits: int = 1, labels: int | None = None, groups: bool = True) -> Case:
    draw = np.random.default_rng(seed)
    logits = np.round(draw.normal(-1, 1.5, n), digits)
    drawn = (draw.random(n) < special.expit(logits * 0.8)).astype(np.int8)
    own = drawn if labels is None else np.full(n, labels, dtype=np.int8)
    own[draw.random(n) < 0.15] = -1
    users = draw.integers(-1, 60, n)
    sessions = np.where(users < 0, -1, users * 3 + draw.integers(0, 3, n))
    requests = sessions if groups else np.full(n, -1)
    return Case(logits, own, users, sessions, requests)


CASES = {
    "ties": case(0),
    "many ties": case(1, digits=0),
    "no ties": case(2, digits=12),
    "another": case(3, n=1500),
    "all positive": case(4, labels=1),
    "all negative": case(5, labels=0),
    "nothing settled": case(6, labels=-1),
    "empty groups": case(7, groups=False),
    "one row": Case(*(np.array([value]) for value in (0.3, 1, 2, 3, 4))),
    "no rows": Case(*(np.empty(0, dtype=kind) for kind in (float, np.int8, int, int, int))),
}


def within(codes: Callable[[Case], np.ndarray]) -> Callable[[Case], Any]:
    def found(of: Case) -> Any:
        own, aucs, sizes, left_out = codes(of)[of.labels >= 0], [], [], 0
        for group in set(own.tolist()) - {-1}:
            rows = own == group
            if len(set(of.y[rows].tolist())) == 2:
                aucs.append(roc_auc_score(of.y[rows], of.z[rows]))
                sizes.append(int(rows.sum()))
            else:
                left_out += 1
        value = float(np.average(aucs, weights=sizes)) if aucs else None
        share = sum(sizes) / len(of.y) if len(of.y) else None
        return {"value": value, "groups": len(aucs), "left_out": left_out, "rows": sum(sizes), "share": share}

    return found


def group_order(of: Case) -> Any:
    own, ndcg, ranks, rows_of, left_out = of.requests[of.labels >= 0], [], [], 0, 0
    for group in sorted(set(own.tolist()) - {-1}):
        rows = own == group
        y, z = of.y[rows], of.z[rows]
        if not y.any():
            left_out += 1
            continue
        # Scikit-learn wants two rows; one that is positive is in order.
        ndcg.append(float(ndcg_score([y], [z], k=10)) if len(y) > 1 else 1.0)
        ranks.append(mean_reciprocal_rank(y, z))
        rows_of += int(rows.sum())
    values = {"ndcg": float(np.mean(ndcg)) if ndcg else None, "mrr": float(np.mean(ranks)) if ranks else None}
    return {"k": 10, **values, "groups": len(ndcg), "left_out": left_out, "rows": rows_of}


def mean_reciprocal_rank(y: np.ndarray, z: np.ndarray) -> float:
    """Over all orders of the equal scores among which the first positive row stands."""
    best = z[y == 1].max()
    above, tied = int((z > best).sum()), y[z == best].tolist()
    orders = set(permutations(tied)) if len(tied) <= 7 else None
    if orders is None:
        draws, hits = len(tied), sum(tied)
        # The first hit at place j + 1, one factor a place.
        total, free = 0.0, 1.0
        for place in range(draws):
            total += free * hits / (draws - place) / (above + place + 1)
            free *= 1 - hits / (draws - place)
        return total
    return float(np.mean([1 / (above + order.index(1) + 1) for order in orders]))


def reliability_bins(of: Case) -> list[dict[str, float]]:
    """One equal score after the other, from the highest down; a bin is full with another tenth of the positives."""
    positives = int(of.y.sum())
    if positives == 0:
        return []
    found, current, hits, target = [], np.zeros(len(of.y), dtype=bool), 0, 1
    scores = sorted(set(of.z.tolist()), reverse=True)
    for score in scores:
        current = current | (of.z == score)
        hits += int(of.y[of.z == score].sum())
        if (target < 10 and hits >= target * positives / 10) or score == scores[-1]:
            while target < 10 and hits >= target * positives / 10:
                target += 1
            count, happened = int(current.sum()), int(of.y[current].sum())
            low, high = wilson_bounds(happened / count, count / design_effect(of, current))
            found.append({
                "rows": count, "positives": happened, "predicted": float(of.p[current].mean()),
                "observed": happened / count, "low": low, "high": high,
            })  # fmt: skip
            current = np.zeros(len(of.y), dtype=bool)
    return found[::-1]


def wilson_bounds(rate: float, trials: float) -> tuple[float, float]:
    """Where the score test of a rate is at its limit: the roots of (rate - x)² = z² x (1 - x) / trials."""
    square = stats.norm.ppf(0.975) ** 2 / trials
    low, high = sorted(np.roots([1 + square, -(2 * rate + square), rate**2]).real.tolist())
    return max(low, 0.0), min(high, 1.0)


def deviations(of: Case, chosen: np.ndarray) -> tuple[float, float, float]:
    """Summed squares, over users, of the deviation from the others' ratio and of p (1 - p), and those of single rows' deviations."""
    ratio, total = of.y[chosen].sum() / of.p[chosen].sum(), of.p[chosen].sum()
    own = of.users[of.labels >= 0]
    users = [chosen & (own == user) for user in sorted(set(own.tolist()) - {-1})]
    users += [np.arange(len(own)) == row for row in np.flatnonzero(chosen & (own == -1))]
    between, effects = 0.0, 0.0
    for rows in users:
        others = 1 - of.p[rows].sum() / total
        if others > 1e-9:
            between += float(((of.y[rows].sum() - ratio * of.p[rows].sum()) / others) ** 2)
        effects += float((of.p[rows] * (1 - of.p[rows])).sum() ** 2)
    return between, effects, float(((of.y[chosen] - ratio * of.p[chosen]) ** 2).sum())


def design_effect(of: Case, chosen: np.ndarray) -> float:
    """How many times as many rows of users tell a rate as well as rows by themselves, at least 1."""
    everything = np.ones(len(of.y), dtype=bool)
    between, effects, alone = deviations(of, everything)
    spread = max(0.0, (between - alone) / (of.y.sum() / of.p.sum()) ** 2 / effects)
    between, effects, alone = deviations(of, chosen)
    count, hits, expected = int(chosen.sum()), int(of.y[chosen].sum()), float(of.p[chosen].sum())
    if hits == 0:
        return max(1.0, 1 + spread * effects / expected)
    within = max(alone / hits, 1 / (count + 1))
    variance = max(within + spread * hits / expected * effects / expected, between / hits)
    return max(1.0, variance / max(1 - hits / count, 1 / (count + 1)))


def ece(of: Case) -> float | None:
    bins = reliability_bins(of)
    if not bins:
        return None
    return sum(b["rows"] * abs(b["observed"] - b["predicted"]) for b in bins) / len(of.y)


def isotonic_parts(of: Case) -> Any:
    if not len(of.y):
        return None
    fitted = IsotonicRegression(out_of_bounds="clip").fit(of.z, of.y).predict(of.z)
    best = -float(np.mean(special.xlogy(of.y, fitted) + special.xlog1py(1 - of.y, -fitted)))
    score, uncertainty = log_loss(of.y, of.p, labels=[0, 1]), stats.entropy([of.y.mean(), 1 - of.y.mean()])
    return {
        "score": score, "miscalibration": score - best, "discrimination": uncertainty - best, "uncertainty": uncertainty,
    }  # fmt: skip


def confusion(of: Case, probability: float, predicted: np.ndarray) -> dict[str, float | None]:
    (tn, fp), (fn, tp) = confusion_matrix(of.y, predicted, labels=[0, 1]).tolist()
    return {
        "probability": probability, "true_positives": tp, "false_positives": fp, "false_negatives": fn, "true_negatives": tn,
        "precision": tp / (tp + fp) if tp + fp else None, "recall": tp / (tp + fn) if tp + fn else None,
        "f1": float(f1_score(of.y, predicted, zero_division=0.0)) if tp + fp + fn else None,
    }  # fmt: skip


def best_f1(of: Case) -> Any:
    if not of.y.any():
        return None
    best = max(sorted(set(of.z.tolist()), reverse=True), key=lambda score: round(f1_score(of.y, of.z >= score), 14))
    return confusion(of, float(special.expit(best)), of.z >= best)


def decision(of: Case) -> Any:
    if not len(of.y):
        return None
    acted = of.p >= 0.25
    gain = sum(4.0 * y - 1.0 for y, act in zip(of.y.tolist(), acted, strict=True) if act) / len(of.y) * 1000
    oracle = sum(3.0 for y in of.y if y) / len(of.y) * 1000
    return {
        "cost": 1.0, "value": 4.0, **confusion(of, 0.25, acted), "gain_per_1000": gain,
        "gain_of_all_per_1000": (4.0 * of.y.mean() - 1.0) * 1000, "gain_of_oracle_per_1000": oracle,
        "regret_per_1000": oracle - gain,
    }  # fmt: skip


def recalls(of: Case) -> dict[str, float]:
    """What the first rows find, one after the other; of equal scores each is as good as their mean."""
    if not of.y.any():
        return {}
    order = np.argsort(-of.z, kind="stable")
    worth = [float(of.y[of.z == score].mean()) for score in of.z[order]]
    found = {}
    for share in (0.01, 0.05, 0.1):
        rows = share * len(of.y)
        whole = int(rows + 1e-9)
        part = (rows - whole) * worth[whole] if whole < len(worth) and rows - whole > 1e-9 else 0.0
        found[f"{share:g}"] = (sum(worth[:whole]) + part) / float(of.y.sum())
    return found


def normalised(of: Case) -> float | None:
    return log_loss(of.y, of.p) / stats.entropy([of.y.mean(), 1 - of.y.mean()]) if of.both else None


ORACLES: Mapping[str, Callable[[Case], Any]] = {
    "rows": lambda of: len(of.y),
    "masked": lambda of: int((of.labels == -1).sum()),
    "positives": lambda of: int(of.y.sum()),
    "clusters": lambda of: len(set(of.users[of.labels >= 0].tolist()) - {-1}) + int(((of.users == -1) & (of.labels >= 0)).sum()),
    "settled_share": lambda of: len(of.y) / len(of.labels) if len(of.labels) else None,
    "base_rate": lambda of: float(of.y.mean()) if len(of.y) else None,
    "mean_prediction": lambda of: float(of.p.mean()) if len(of.y) else None,
    "auc": lambda of: roc_auc_score(of.y, of.z) if of.both else None,
    "user_auc": within(lambda of: of.users),
    "session_auc": within(lambda of: of.sessions),
    "grouped_auc": within(lambda of: of.requests),
    "group_order": group_order,
    "ap": lambda of: average_precision_score(of.y, of.z) if of.y.any() else None,
    "lift": lambda of: average_precision_score(of.y, of.z) / of.y.mean() if of.y.any() else None,
    "log_loss": lambda of: log_loss(of.y, of.p, labels=[0, 1]) if len(of.y) else None,
    "ne": normalised,
    "rig": lambda of: None if (ne := normalised(of)) is None else 1 - ne,
    "oe": lambda of: of.y.sum() / of.p.sum() if len(of.y) else None,
    "recall_at": recalls,
    "calibration_error": lambda of: None if (gap := ece(of)) is None else gap / of.y.mean(),
    "ece": ece,
    "bins": reliability_bins,
    "log_loss_parts": isotonic_parts,
    "best_f1": best_f1,
    "decision": decision,
}  # fmt: skip
"""By metric, what somebody else finds: the value, without its interval."""


def values(content: Any) -> Any:
    """The JSON of a metric without intervals and without what names it."""
    if isinstance(content, list):
        return [values(one) for one in content]
    if not isinstance(content, dict):
        return content
    if set(content) == {"value", "low", "high"}:
        return content["value"]
    named = {"key", "weighted_by", *(("low", "high") if "groups" in content else ())}
    return {name: values(one) for name, one in content.items() if name not in named}


def agree(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for name in expected:
            agree(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for at, one in enumerate(expected):
            agree(found[at], one, f"{where}[{at}]")
    elif expected is None or found is None:
        assert found is expected, where
    else:
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9), where


def test_every_metric_has_an_oracle() -> None:
    assert set(ORACLES) == {field.name for field in fields(TaskMetrics)} - {"undefined"}


@pytest.mark.parametrize("name", CASES)
def test_metrics_are_those_of_the_oracles(name: str) -> None:
    of = CASES[name]
    belongs = RowGroups(clusters=of.users, sessions=of.sessions, groups=of.requests, group_key="request")
    content = evaluate_rows(of.logits, of.labels, belongs, seed=0, costs=COSTS).to_json()
    keys = {name: content[name]["key"] for name in ("user_auc", "session_auc", "grouped_auc", "group_order")}
    assert keys == {"user_auc": "user", "session_auc": "session", "grouped_auc": "request", "group_order": "request"}
    for metric, oracle in ORACLES.items():
        agree(values(content.get(metric)), oracle(of), f"{name}: {metric}")


WEIGHTED: Mapping[str, tuple[Callable[..., Any], Callable[..., float]]] = {
    "roc_auc": (metrics.roc_auc, lambda y, z, w: roc_auc_score(y, z, sample_weight=w)),
    "average_precision": (metrics.average_precision, lambda y, z, w: average_precision_score(y, z, sample_weight=w)),
    "log_loss": (metrics.log_loss, lambda y, z, w: log_loss(y, special.expit(z), sample_weight=w)),
    "normalised_entropy": (
        metrics.normalised_entropy,
        lambda y, z, w: log_loss(y, special.expit(z), sample_weight=w) / stats.entropy(np.bincount(y, weights=w)),
    ),
    "relative_information_gain": (
        metrics.relative_information_gain,
        lambda y, z, w: 1 - log_loss(y, special.expit(z), sample_weight=w) / stats.entropy(np.bincount(y, weights=w)),
    ),
    "lift": (
        metrics.lift, lambda y, z, w: average_precision_score(y, z, sample_weight=w) / np.average(y, weights=w)
    ),
    "decomposed_brier": (
        lambda *of: decomposed_brier(*of).score, lambda y, z, w: brier_score_loss(y, special.expit(z), sample_weight=w)
    ),
    "decomposed_log_loss": (
        lambda *of: decomposed_log_loss(*of).score, lambda y, z, w: log_loss(y, special.expit(z), sample_weight=w)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTED)
def test_weighted_metrics_are_those_of_the_oracles(name: str) -> None:
    own, oracle = WEIGHTED[name]
    for of in (CASES["ties"], CASES["many ties"], CASES["no ties"]):
        weights = np.random.default_rng(1).integers(0, 4, len(of.labels)).astype(float)
        expected = oracle(of.y, of.z, weights[of.labels >= 0])
        assert own(of.logits, of.labels, weights) == pytest.approx(expected, rel=1e-9)
        # A weight is as many rows.
        if "decomposed" not in name:
            repeated = np.repeat(np.arange(len(weights)), weights.astype(int))
            assert own(of.logits[repeated], of.labels[repeated]) == pytest.approx(expected, rel=1e-9)
