"""What a ranking earns: against one group at a time, and with an interval that holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.evaluation.ranking_revenue import ranking_revenue


@given(seed=st.integers(0, 2**32), groups=st.integers(2, 40))
def test_it_agrees_with_a_plain_loop(seed: int, groups: int) -> None:
    draw = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), draw.integers(1, 6, groups))
    group[draw.random(len(group)) < 0.05] = -1
    n = len(group)
    scores, values = np.round(draw.random(n), 1), np.round(draw.random(n) * 3) * (draw.random(n) < 0.4)
    values[draw.random(n) < 0.05] = np.nan
    scores[draw.random(n) < 0.05] = np.nan
    positions = draw.integers(0 if seed % 2 else 1, 5, n)
    found = ranking_revenue(scores, values, positions, group)
    earned: dict[str, list[float]] = {"model": [], "expected": [], "logged": [], "random": [], "oracle": []}
    left_out = 0
    for one in sorted(set(group.tolist()) - {-1}):
        s, v, p = scores[group == one], values[group == one], positions[group == one]
        if len(s) < 2 or np.isnan(s + v).any() or (p == 0).any():
            left_out += 1
            continue
        earned["model"].append(v[s == s.max()].mean())
        earned["expected"].append(s.max())
        earned["logged"].append(v[p == p.min()].mean())
        earned["random"].append(v.mean())
        earned["oracle"].append(v.max())
    if not earned["model"]:
        assert found is None
        return
    assert found is not None
    assert (found.groups, found.left_out) == (len(earned["model"]), left_out)
    for name, each in earned.items():
        assert getattr(found, name).value == pytest.approx(1000 * np.mean(each), abs=1e-9), name
    gain = np.array(earned["model"]) - np.array(earned["logged"])
    assert found.gain.value == pytest.approx(1000 * gain.mean(), abs=1e-9)
    if np.isfinite(found.gain.low):
        error = 1000 * gain.std(ddof=1) / np.sqrt(len(gain))
        assert found.gain.high - found.gain.value == pytest.approx(error * 1.96, rel=0.2)


def test_its_interval_holds_in_95_of_100_worlds() -> None:
    draw, held, worlds = np.random.default_rng(5), 0, 400
    users, pages, slots = 150, 3, 4
    for _ in range(worlds):
        taste = np.repeat(draw.gamma(2.0, 0.1, users), pages * slots)
        quality = draw.random(users * pages * slots)
        earned = (draw.random(len(taste)) < np.minimum(taste * quality, 1)).astype(float)
        group = np.repeat(np.arange(users * pages), slots)
        found = ranking_revenue(quality, earned, np.tile(np.arange(1, slots + 1), users * pages), group, group // pages)
        assert found is not None
        # The largest of four uniform numbers has mean 4/5, and a taste .2 but for rates that are cut at 1.
        held += found.model.low <= 160 <= found.model.high
    assert 0.92 <= held / worlds <= 0.98


def test_nothing_to_rank_has_no_revenue_and_shapes_are_checked() -> None:
    ones = np.ones(3)
    assert ranking_revenue(ones, ones, np.ones(3, int), np.full(3, -1)) is None
    assert ranking_revenue(ones, ones, np.ones(3, int), np.arange(3)) is None
    with pytest.raises(EvaluationError, match="positions: expected shape"):
        ranking_revenue(ones, ones, np.ones(2, int), np.arange(3))
