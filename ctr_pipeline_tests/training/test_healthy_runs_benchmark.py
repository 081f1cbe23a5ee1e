"""What benchmarks/healthy_runs.py tries and counts; nightly, every kind of it for some steps."""

from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def benchmark(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    import healthy_runs

    return healthy_runs


def test_each_setting_is_tried_as_often_as_the_others(benchmark: ModuleType) -> None:
    found = benchmark.variants(40, 1)
    assert Counter(variant.batch for variant in found) == dict.fromkeys(benchmark.BATCHES, 5)
    assert Counter(variant.factor for variant in found) == dict.fromkeys(benchmark.FACTORS, 8)
    assert Counter(variant.precision for variant in found) == {"fp32": 20, "bf16": 10, "fp16": 10}
    assert len({str(variant.model) for variant in found}) > 20
    assert found == benchmark.variants(40, 1) != benchmark.variants(40, 2)


def test_alarms_are_counted_by_run_and_bounded_by_steps(benchmark: ModuleType) -> None:
    def outcome(number: int, hard: tuple[str, ...] = (), soft: tuple[str, ...] = ()):
        return benchmark.Outcome(
            variant=benchmark.variants(40, 1)[number],
            steps=950,
            validation=0.9,
            hard=hard,
            soft=soft,
            refused="",
            seconds=1.0,
        )

    silent = benchmark.report([outcome(n) for n in range(40)])
    assert (silent["steps"], silent["hard"]["runs"]) == (38_000, 0)
    assert silent["hard"]["interval"][1] == pytest.approx(0.9707, abs=1e-3)
    found = benchmark.report([outcome(0, ("a: x", "b: y"), ("a: z",)), *(outcome(n) for n in range(1, 40))])
    assert (found["hard"]["runs"], found["hard"]["names"], found["soft"]["names"]) == (1, {"a": 1, "b": 1}, {"a": 1})
    assert found["hard"]["interval"][1] > 1


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(40))
def test_healthy_trainings_are_neither_refused_nor_stopped(benchmark: ModuleType, number: int, tmp_path: Path) -> None:
    outcome = benchmark.run(benchmark.variants(40, 1)[number], 100, tmp_path)
    assert outcome.hard == ()
    assert outcome.steps >= 90
