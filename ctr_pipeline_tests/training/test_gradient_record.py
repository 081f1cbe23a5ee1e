from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from ctr_pipeline.training import gradient_record
from ctr_pipeline.training.checkpoint import CheckpointSchedule
from ctr_pipeline.training.gradient_record import GradientRecord


def rows(first: int, end: int) -> list[tuple[int, str, str, str, float]]:
    return [(step, "w", "gradient", "norm", step / 7) for step in range(first, end)]


def steps(path: Path) -> list[int]:
    return pl.read_parquet(path)["step"].to_list()


def test_rows_leave_memory_in_parts_and_end_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_record, "PART", 10)
    record, waiting = GradientRecord(tmp_path / "gradients.parquet"), []
    record.start()
    longest = 0
    for step in range(95):
        waiting += rows(step, step + 1)
        record.write(waiting, all_of_them=False)
        longest = max(longest, len(waiting))
    assert longest < 10
    assert record.parts == 9
    record.close(waiting, finished=True)
    found = pl.read_parquet(tmp_path / "gradients.parquet")
    assert found.rows() == rows(0, 95)
    assert found.columns == ["step", "tensor", "kind", "stat", "value"]
    assert [path.name for path in tmp_path.iterdir()] == ["gradients.parquet"]


def test_what_was_written_behind_a_checkpoint_is_dropped_when_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "gradients.parquet"
    first = GradientRecord(path)
    first.start()
    first.write(rows(0, 30), all_of_them=True)
    kept = first.parts
    first.write(rows(30, 50), all_of_them=True)
    first.close(rows(50, 60), finished=False)
    assert steps(path) == list(range(60))
    second = GradientRecord(path)
    second.start(kept)
    second.close(rows(30, 40), finished=True)
    assert steps(path) == list(range(40))
    # Of a run that had ended, nothing is made anew.
    third = GradientRecord(path)
    third.start(second.parts)
    third.close([], finished=True)
    assert steps(path) == list(range(40))
    # And one that begins anew has nothing of it.
    fourth = GradientRecord(path)
    fourth.start()
    fourth.close([], finished=True)
    assert pl.read_parquet(path).is_empty()


@pytest.mark.parametrize(("steps", "every"), [(274, 13), (5, 1), (19, 1), (3_000, 150), (100_000, 1000)])
def test_a_killed_training_loses_a_twentieth_of_its_steps(steps: int, every: int) -> None:
    schedule = CheckpointSchedule(None, steps, lambda: 0.0)
    assert schedule.every == every
    assert [step for step in range(1, 3 * every + 1) if schedule.is_due(step)] == [every, 2 * every, 3 * every]


def test_checkpoints_that_take_long_are_fewer() -> None:
    now = [100.0]
    chosen, given = (CheckpointSchedule(every, 1000, lambda: now[0]) for every in (None, 7))
    assert chosen.is_worth_its_time()
    for schedule in (chosen, given):
        now[0] = 102.0
        schedule.written(100.0)
    # It took two seconds: the next one is worth them after forty.
    now[0] = 141.0
    assert (chosen.is_worth_its_time(), given.is_worth_its_time()) == (False, True)
    now[0] = 142.0
    assert chosen.is_worth_its_time()


def test_the_largest_embedding_gradient_names_the_row_of_the_training_arrays(job, make_trainer) -> None:
    trainer = make_trainer(job.model_copy(update={"training": job.training.model_copy(update={"epochs": 1})}))
    # Bought, which an untrained model gives a small probability.
    heavy = int(trainer.train.labels.min(axis=1).argmax())
    weights = trainer.train.weights.copy()
    weights[heavy] = 60.0
    trainer.train = replace(trainer.train, weights=weights)
    # The row may come in any batch: each is measured in detail.
    trainer.monitor._details = 1
    trainer.run(False)
    record = pl.read_parquet(trainer.files.gradients).filter(pl.col("stat").str.starts_with("largest_row"))
    table = "embeddings.tables.width_4.table.weight"
    found = record.filter(pl.col("tensor") == table).pivot("stat", index="step", values="value")
    worst = found.sort("largest_row_norm", descending=True).row(0, named=True)
    assert worst["largest_row_sample"] == heavy
    ids = trainer.train.ids[heavy]
    owner = trainer.model.get_submodule("embeddings.tables.width_4")
    column, own = owner.locate(int(worst["largest_row"]))
    assert ids[column] == own
