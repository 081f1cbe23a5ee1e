"""A fault of all rows of a dataset is seen beside the rows of the last good run; without one it is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.training.drilling.drilled_run import PreparedDrill, prepare_drill
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.triage_survey import last_good_clues


def without_sign(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[:, 1] = np.abs(numeric[:, 1])
    return replace(rows, numeric=numeric)


def built(drill: PreparedDrill, good: PreparedDrill | None, folder: Path) -> Trainer:
    steps = None if good is None else good.job.output / "steps.jsonl"
    return replace(drill, job=drill.job.model_copy(update={"last_good_steps": steps})).build(folder)


@pytest.mark.parametrize("faulty", [True, False])
def test_rows_are_compared_with_those_of_the_last_good_run(faulty: bool, tmp_path: Path) -> None:
    fault = Fault(name="own", family="own", symptom="", cause="", fix="", rows=without_sign, other_rows=without_sign)
    good, drill = (
        prepare_drill(None, 1, tmp_path / "good"),
        prepare_drill(fault if faulty else None, 2, tmp_path / "own"),
    )
    good.job.save(good.job.output / "job.json")
    found = list(last_good_clues(built(drill, good, tmp_path / "run")))
    assert [(clue.cause, clue.location) for clue in found] == ([("feature_drift", "rating")] if faulty else [])
    assert not list(last_good_clues(built(drill, None, tmp_path / "alone")))


def test_a_last_good_run_whose_rows_are_gone_is_none(tmp_path: Path) -> None:
    drill = prepare_drill(None, 2, tmp_path / "own")
    drill.job.model_copy(update={"dataset": tmp_path / "gone"}).save(drill.job.output / "job.json")
    assert not list(last_good_clues(built(drill, drill, tmp_path / "run")))
    (drill.job.output / "job.json").write_text("{}")
    assert not list(last_good_clues(built(drill, drill, tmp_path / "again")))
