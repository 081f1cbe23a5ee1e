"""Limits from healthy runs: what they promise, and what the next training makes of them."""

import json
import math
from pathlib import Path

import pytest

from ctr_pipeline.training import health_calibration
from ctr_pipeline.training.health_calibration import HealthyRun, calibrate_health, compared, highest_rate, limits_of
from ctr_pipeline.training.job_spec import HealthLimits, TrainingError, TrainingJob


def healthy(number: int, steps: int = 1000) -> list[HealthyRun]:
    """Runs whose largest norm ratios are 1, 2, … hundredths of the rule of thumb."""
    return [
        HealthyRun(seed=n, steps=steps, strengths={"norm_ratio": 0.3 + n / 100, "clipped_steps": 0.0})
        for n in range(number)
    ]


def test_the_limit_is_the_largest_measurement_that_the_budget_leaves() -> None:
    found = limits_of(healthy(40), None)
    assert (found.runs, found.steps) == (40, 40_000)
    # No alarm in 40,000 steps: at most −ln(0.05) / 40,000 a step.
    assert found.false_alarms == pytest.approx(-math.log(0.05) / 4, rel=1e-3)
    assert found.limits["norm_ratio"] == pytest.approx(5 * 0.69)
    # What never happened is allowed up to a tenth of the rule of thumb.
    assert found.limits["clipped_steps"] == pytest.approx(0.05)
    assert "update_ratio" not in found.limits, "was not measured"


def test_a_larger_budget_lets_as_many_runs_exceed_the_limit_as_it_covers() -> None:
    budget = 2.0
    found = limits_of(healthy(40), budget)
    exceeding = sum(5 * run.strengths["norm_ratio"] > found.limits["norm_ratio"] for run in healthy(40))
    assert exceeding == 3
    assert highest_rate(3, 40_000) <= budget < highest_rate(4, 40_000)


def test_a_budget_that_the_steps_cannot_show_is_refused_with_the_steps_it_takes() -> None:
    with pytest.raises(TrainingError, match=r"for 1 take 29,958 steps"):
        limits_of(healthy(20), 1.0)
    limits_of(healthy(20, 1498), 1.0)
    with pytest.raises(TrainingError, match="too few"):
        limits_of(healthy(19, 10_000), None)


def test_runs_of_other_seeds_give_limits_and_the_next_training_uses_them(
    job, make_trainer, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_calibration, "FEWEST_RUNS", 2)
    seen: list[HealthyRun] = []
    found = calibrate_health(job, tmp_path / "runs", runs=2, epochs=1, progress=seen.append)
    assert len({run.seed for run in seen} | {job.seed}) == 3
    assert [run.steps for run in seen] == [10, 10]
    assert set(found.limits) == {"norm_ratio", "update_ratio", "dead_units", "clipped_steps"}
    assert found.limits["update_ratio"] == pytest.approx(0.5 * max(run.strengths["update_ratio"] for run in seen))
    assert found == calibrate_health(job, tmp_path / "again", runs=2, epochs=1), "the same each time"
    assert not any((tmp_path / "runs").iterdir())
    tight = found.model_copy(update={"limits": {"update_ratio": 1e-4}, "runs": 20})
    own = job.model_copy(update={"health_limits": tight, "output": tmp_path / "tight"})
    own.save(tmp_path / "job.json")
    assert TrainingJob.load(tmp_path / "job.json").health_limits == tight
    finding = make_trainer(own).run(False).health.finding("update_ratio")
    assert (finding.severity, finding.limit) == ("warn", 1e-4)
    assert "calibrated on 20 healthy runs" in finding.message
    assert make_trainer(job).run(False).health.finding("update_ratio").limit == 0.5


def lines(factor: float, steps: int = 40) -> list[dict[str, float]]:
    """Lines of steps.jsonl whose loss is ``factor``."""
    return [{"step": step, "loss": factor, "grad_norm": 2.0} for step in range(steps)]


def test_each_run_is_compared_with_the_one_before_it_and_the_first_with_the_last(
    job, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter((1.0, 1.2, 1.2, 1.8))

    def run(_: TrainingJob, seed: int, folder: Path, __: int | None) -> HealthyRun:
        folder.mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in lines(next(losses)))
        (folder / "steps.jsonl").write_text(text)
        return HealthyRun(seed=seed, steps=1000, strengths={})

    monkeypatch.setattr(health_calibration, "FEWEST_RUNS", 4)
    monkeypatch.setattr(health_calibration, "run_healthy", run)
    seen: list[HealthyRun] = []
    found = calibrate_health(job, tmp_path, runs=4, progress=seen.append)
    # log(1.8 / 1) / log(1.5), of the first after the last.
    assert found.limits == {"departure": pytest.approx(math.log(1.8) / math.log(1.5))}
    factor = math.log(1.5)
    assert [run.strengths.get("departure") for run in seen] == [
        None, *(pytest.approx(math.log(ratio) / factor) for ratio in (1.2, 1.0, 1.5)),
    ]  # fmt: skip


def test_runs_of_the_same_rows_raise_the_limit_of_departure_and_do_not_lower_it() -> None:
    for change, limit in ((1.0, 1.0), (1.1, 1.0), (2.0, math.log(2) / math.log(1.5))):
        runs = [compared(run, lines(change), lines(1.0)) for run in healthy(20)]
        assert limits_of(runs, None).limits["departure"] == pytest.approx(limit)
    # Too few steps for a median: nothing was compared, and the rule of thumb stays.
    short = [compared(run, lines(1.0, 15), lines(1.0, 15)) for run in healthy(20)]
    assert "departure" not in limits_of(short, None).limits


def test_a_run_that_is_stopped_is_not_healthy(job, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_calibration, "FEWEST_RUNS", 1)
    broken = job.model_copy(update={"training": job.training.model_copy(update={"learning_rate": 1e4})})
    with pytest.raises(TrainingError, match="was stopped at step"):
        calibrate_health(broken, tmp_path / "runs", runs=1)


def test_settings_are_those_of_model_training_and_tasks_and_not_seed_or_rows(job) -> None:
    same = job.model_copy(update={"seed": 99, "dataset": job.output})
    other = job.model_copy(update={"task_weights": {"click": 2.0}})
    assert same.settings_hash == job.settings_hash != other.settings_hash
    limits = HealthLimits(runs=20, steps=10, false_alarms=5.0, limits={})
    assert job.model_copy(update={"health_limits": limits}).settings_hash == job.settings_hash


def test_a_training_is_compared_with_the_last_good_one(job, make_trainer, tmp_path) -> None:
    make_trainer(job).run(False)
    lines = (job.output / "steps.jsonl").read_text().splitlines()
    reference = tmp_path / "reference.jsonl"
    # 20 steps are compared at least; the model is small enough to repeat the epochs.
    training = job.training.model_copy(update={"epochs": 4, "patience": 9})
    again = job.model_copy(update={"training": training, "output": tmp_path / "a", "last_good_steps": reference})
    reference.write_text("\n".join(lines) + "\n")
    finding = make_trainer(again).run(False).health.finding("departure")
    assert (finding.severity, finding.numbers["departure"] is not None) == ("ok", False)
    longer = again.model_copy(update={"last_good_steps": None, "output": tmp_path / "b"})
    make_trainer(longer).run(False)
    records = [json.loads(line) for line in (tmp_path / "b" / "steps.jsonl").read_text().splitlines()]
    reference.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 4')
    repeated = make_trainer(again.model_copy(update={"output": tmp_path / "c"})).run(False).health.finding("departure")
    assert (repeated.severity, repeated.value) == ("ok", 0.0)
    reference.write_text("".join(json.dumps(r | {"loss": r["loss"] / 2}) + "\n" for r in records))
    departed = make_trainer(again.model_copy(update={"output": tmp_path / "d"})).run(False).health.finding("departure")
    assert (departed.severity, departed.tensor) == ("warn", "loss")
    assert departed.value == pytest.approx(math.log(2) / math.log(1.5), rel=1e-6)
    limits = HealthLimits(runs=20, steps=1000, false_alarms=5.0, limits={"departure": 1.8})
    wide = again.model_copy(update={"output": tmp_path / "e", "health_limits": limits})
    allowed = make_trainer(wide).run(False).health.finding("departure")
    assert (allowed.severity, allowed.limit) == ("ok", 1.8)
    assert "(warning above 1.8, calibrated on 20 healthy runs)" in allowed.message
