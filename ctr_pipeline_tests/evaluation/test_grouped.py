"""AUC within groups: against one group at a time, its coverage, and an interval that holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.metrics import roc_auc_score

from ctr_pipeline.evaluation import evaluate
from ctr_pipeline.evaluation.group_ranking import group_ranking
from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.evaluation.within_groups import grouped_metrics


def plain_loop(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, clusters: np.ndarray
) -> tuple[float, float, dict[int, tuple[float, int]], float]:
    """Mean, share, AUC and rows by group, and the standard error over clusters."""
    found: dict[int, tuple[float, int]] = {}
    owner: dict[int, int] = {}
    for group in set(groups.tolist()) - {-1}:
        rows = (groups == group) & (labels >= 0)
        if len(set(labels[rows].tolist())) == 2:
            found[group] = (float(roc_auc_score(labels[rows], logits[rows])), int(rows.sum()))
            owner[group] = int(clusters[rows][0])
    total = sum(size for _, size in found.values())
    mean = sum(auc * size for auc, size in found.values()) / total
    sums: dict[int, float] = {}
    for group, (auc, size) in found.items():
        sums[owner[group]] = sums.get(owner[group], 0.0) + size * (auc - mean)
    error = (sum(x**2 for x in sums.values()) * len(sums) / (len(sums) - 1)) ** 0.5 / total
    return mean, total / int((labels >= 0).sum()), found, error


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), users=st.integers(12, 60), requests=st.integers(1, 4), slots=st.integers(2, 6))
def test_it_agrees_with_a_plain_loop(seed: int, users: int, requests: int, slots: int) -> None:
    draw = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(users), requests * slots)
    groups = np.repeat(draw.permutation(users * requests), slots)
    groups[draw.random(len(groups)) < 0.05] = -1
    # Rounded, so that there are ties.
    logits = np.round(draw.normal(size=len(groups)), 1)
    labels = draw.choice([-1, 0, 1], size=len(groups), p=[0.1, 0.5, 0.4])
    order = draw.permutation(len(groups))
    logits, labels, groups, clusters = (x[order] for x in (logits, labels, groups, clusters))
    found = grouped_metrics(logits, labels, groups, clusters)
    try:
        mean, share, by_group, error = plain_loop(logits, labels, groups, clusters)
    except ZeroDivisionError:
        # No group has both classes, or those that do are of one cluster, which tells of no error.
        assert found.auc is None or not np.isfinite(found.auc.low)
        return
    assert found.auc is not None
    assert found.auc.value == pytest.approx(mean, abs=1e-12)
    assert found.share == pytest.approx(share)
    assert (found.groups, found.rows) == (len(by_group), sum(size for _, size in by_group.values()))
    if np.isfinite(found.auc.low):
        # On the logit scale the interval is symmetric, and 1.96 standard errors wide on each side.
        low, middle, high = (np.log(x / (1 - x)) for x in (found.auc.low, mean, found.auc.high))
        assert high - middle == pytest.approx(middle - low)
        assert high - middle == pytest.approx(1.959964 * error / (mean * (1 - mean)), rel=1e-5)
    else:
        assert (
            error == pytest.approx(0) or len({c for c, g in zip(clusters, groups, strict=True) if g in by_group}) < 10
        )


def test_a_group_over_several_clusters_is_drawn_itself() -> None:
    draw = np.random.default_rng(3)
    groups, labels = np.repeat(np.arange(40), 10), draw.integers(0, 2, 400)
    logits = draw.normal(size=400) + labels
    apart = grouped_metrics(logits, labels, groups, draw.integers(0, 7, 400))
    assert apart == grouped_metrics(logits, labels, groups)
    assert apart == grouped_metrics(logits, labels, groups, groups)
    # Requests of one user, of which each is as good as the others, tell less than requests of as many users.
    alike = np.repeat(draw.normal(size=20), 20) * labels + draw.normal(size=400) * 0.3
    within, single = (grouped_metrics(alike, labels, groups, c).auc for c in (groups // 2, groups))
    assert within is not None
    assert single is not None
    assert within.high - within.low > 1.2 * (single.high - single.low)


def test_the_interval_holds_in_95_of_100_worlds() -> None:
    draw = np.random.default_rng(11)
    held, worlds = 0, 400
    groups = np.repeat(np.arange(600), 5)
    clusters = groups // 4
    for _ in range(worlds):
        labels = (draw.random(3000) < 0.3).astype(int)
        # P(a positive is above a negative) is 0.7602 for normal scores one deviation apart.
        found = grouped_metrics(draw.normal(size=3000) + labels, labels, groups, clusters).auc
        assert found is not None
        held += found.low <= 0.76025 <= found.high
    # Four standard deviations around 95 %.
    assert 362 <= held <= 397


def test_nothing_to_rank() -> None:
    z = np.array([1.0, 2.0, 3.0])
    for labels, groups in (([0, 1, 1], [0, 1, 1]), ([0, 1, 0], [-1, -1, -1])):
        found = grouped_metrics(z, np.array(labels), np.array(groups))
        assert (found.auc, found.groups, found.rows, found.share) == (None, 0, 0, 0.0)
        assert found.to_json()["value"] is None
    assert grouped_metrics(z, np.array([-1, -1, -1]), np.array([0, 0, 0])).share is None
    with pytest.raises(EvaluationError, match="groups: expected shape"):
        grouped_metrics(z, np.array([0, 1, 0]), np.array([0]))


def test_it_is_among_the_metrics_where_groups_are_given() -> None:
    draw = np.random.default_rng(5)
    labels, groups = draw.integers(0, 2, 300), np.repeat(np.arange(60), 5)
    z = draw.normal(size=300) + labels
    found = evaluate(z, labels, groups // 2, groups, seed=1)
    alone = evaluate(z, labels, groups // 2, seed=1)
    expected = grouped_metrics(z, labels, groups, groups // 2)
    assert found.to_json()["grouped_auc"] == expected.to_json()
    assert expected.auc is not None
    added = {
        "grouped_auc": expected.auc.value,
        "grouped_auc_low": expected.auc.low,
        "grouped_auc_high": expected.auc.high,
        "grouped_auc_share": expected.share,
        "grouped_auc_groups": expected.groups,
        "grouped_auc_left_out": expected.left_out,
    }
    order = group_ranking(z, labels, groups, groups // 2)
    assert found.to_json()["group_order"] == order.to_json()
    for name, one in (("ndcg_10", order.ndcg), ("mrr", order.mrr)):
        assert one is not None
        added |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    assert found.numbers() == alone.numbers() | added
    assert "grouped_auc" not in alone.to_json()
    few = evaluate(z[:20], labels[:20], None, groups[:20], seed=1)
    assert "fewer than 10" in few.undefined["interval of grouped_auc"]


def test_the_auc_agrees_with_one_group_at_a_time() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        z = rng.normal(-3, 1, 3000)
        y = (rng.random(3000) < special.expit(z)).astype(np.int8)
        z = np.round(z, 1)
        y[::13] = -1
        group = rng.integers(-1, 200, len(z))
        total, weight, count = 0.0, 0, 0
        for g in range(200):
            chosen = (group == g) & (y >= 0)
            if len(set(y[chosen].tolist())) == 2:
                total += roc_auc_score(y[chosen], z[chosen]) * chosen.sum()
                weight += int(chosen.sum())
                count += 1
        found = grouped_metrics(z, y, group)
        assert found.auc.value == pytest.approx(total / weight, abs=1e-12)
        assert (found.groups, found.rows) == (count, weight)


def test_no_group_with_both_classes() -> None:
    z = np.array([1.0, 2.0])
    assert grouped_metrics(z, np.array([0, 1]), np.array([0, 1])).auc is None
    assert grouped_metrics(z, np.array([0, 1]), np.array([-1, -1])).auc is None
    with pytest.raises(EvaluationError, match="groups"):
        grouped_metrics(z, np.array([0, 1]), np.array([0]))
