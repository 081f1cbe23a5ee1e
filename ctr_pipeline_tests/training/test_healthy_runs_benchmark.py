"""What benchmarks/healthy_runs.py tries and counts; nightly, every kind of it for some steps."""

from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ctr_pipeline.training.job_spec import TrainingJob


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


def test_rows_of_a_log_are_parts_of_those_of_a_training(benchmark: ModuleType, tmp_path: Path) -> None:
    first, second = (next(v for v in benchmark.variants(40, 1) if v.batch == batch) for batch in (64, 2048))
    source = benchmark.write_made_up(first, tmp_path / "source")
    whole = source.splits["train"]
    parts = [
        benchmark.write_part(variant, steps, source.directory, tmp_path / f"{variant.number}-{steps}")
        for variant, steps in ((first, 50), (first, 1000), (second, 50))
    ]
    assert [len(part.splits["train"]) for part in parts] == [3200, 9600, 9600]
    for part in parts:
        # In the order of time, none twice.
        assert (np.diff(part.splits["train"].ts) > 0).all()
        assert np.isin(part.splits["train"].ts, whole.ts).all()
        assert len(part.splits["validation"]) == len(source.splits["validation"])
    assert not np.array_equal(parts[1].splits["train"].ts, parts[2].splits["train"].ts)
    assert {column.dim for column in parts[2].layout.ids} == {second.model["embedding_dim"]}


def test_a_training_on_the_rows_of_a_job_has_its_tasks_and_is_asked_for_its_triage(
    benchmark: ModuleType, job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainingJob] = []

    def triage(own: TrainingJob, *_: object) -> tuple[None, str]:
        asked.append(own)
        return None, "no triage"

    monkeypatch.setattr(benchmark, "own_triage", triage)
    given = job.model_copy(update={"task_weights": {"cart": 0.5}})
    outcome = benchmark.run(benchmark.variants(40, 1)[0], 8, tmp_path, given)
    assert (outcome.hard, outcome.soft[-1]) == ((), "triage: no triage")
    assert asked[0].task_weights == {"cart": 0.5}


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(40))
def test_healthy_trainings_are_neither_refused_nor_stopped(benchmark: ModuleType, number: int, tmp_path: Path) -> None:
    outcome = benchmark.run(benchmark.variants(40, 1)[number], 100, tmp_path)
    assert outcome.hard == ()
    assert outcome.steps >= 90
