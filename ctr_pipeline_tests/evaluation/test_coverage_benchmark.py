"""What benchmarks/coverage.py holds the intervals against, and nightly the intervals themselves."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ctr_pipeline.evaluation import Interval, evaluate
from ctr_pipeline.evaluation.paired_metrics import paired_metrics

MODULES = ("coverage", "_worlds", "_policy_worlds", "_machine")


@pytest.fixture
def benchmark(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module("coverage")


def test_the_truth_of_a_world_is_what_a_very_large_draw_shows(benchmark: ModuleType) -> None:
    world = next(case for case in benchmark.metric_cases() if case.name == "metrics, medium")
    truth = world.truth(3)
    rows = world.draw(40_000, np.random.default_rng(11))
    found = evaluate(rows.logits, rows.labels, rows.user, rows.request, seed=0, replicates=20)
    assert found.user_auc is not None
    assert found.group_order is not None
    for name, value in (
        ("AUC", found.auc), ("AP", found.ap), ("log loss", found.log_loss), ("NE", found.ne), ("O/E", found.oe),
        ("user AUC", found.user_auc.auc), ("nDCG", found.group_order.ndcg), ("MRR", found.group_order.mrr),
    ):  # fmt: skip
        assert value is not None
        assert truth[name] == pytest.approx(value.value, rel=0.04), name
    paired = paired_metrics(rows.other, rows.logits, rows.labels, rows.user)
    assert paired is not None
    assert truth["difference in AUC"] == pytest.approx(paired.auc.value, abs=4 * paired.auc.error)
    assert truth["difference in AP"] == pytest.approx(paired.ap.value, abs=4 * paired.ap.error)


class Made:
    """A case whose interval holds the truth in the worlds of even seeds only, and has none in each tenth."""

    name = "made"

    def truth(self, _: int) -> dict[str, float]:
        return {"x": 1.0}

    def intervals(self, seed: int) -> Iterator[tuple[str, Interval]]:
        yield (
            "x",
            Interval(1, -np.inf, np.inf)
            if seed % 10 == 0
            else Interval(1, 0, 2)
            if seed % 2 == 0
            else Interval(3, 2, 4),
        )


def test_worlds_that_hold_miss_and_have_none_are_counted(benchmark: ModuleType) -> None:
    [found] = benchmark.measure([Made()], 1000, 0)
    assert (found.worlds, found.held, found.below, found.without) == (900, 400, 500, 100)
    assert not found.as_promised
    few = benchmark.measure([Made()], 50, 0)
    assert all(of.as_promised for of in few), "of so few worlds nothing can be said"


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(13))
def test_intervals_hold_the_truth_as_often_as_they_promise(benchmark: ModuleType, number: int) -> None:
    cases = [*benchmark.metric_cases(), *benchmark.policy_cases()]
    assert len(cases) == 13
    off = [
        f"{of.interval}: {of.share:.3f} of {of.worlds} worlds"
        for of in benchmark.measure([cases[number]], 500, 1)
        if not of.as_promised
    ]
    assert off == [], cases[number].name
