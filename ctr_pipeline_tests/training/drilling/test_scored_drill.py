"""Scoring of drills on real trainings, and what it is compared with."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest

from ctr_pipeline.cli.drills import score_lines, score_tables
from ctr_pipeline.commands.drill import score_drills
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.gradients.drills import fault as faults
from ctr_pipeline.gradients.drills import fault_named, registered_faults
from ctr_pipeline.gradients.drills.benign_variants import BENIGN
from ctr_pipeline.gradients.drills.fault import DrillError
from ctr_pipeline.training.drilling.default_rules import RIGHT_FOR, DefaultRules
from ctr_pipeline.training.drilling.drilled_run import prepare_drill
from ctr_pipeline.training.drilling.generic_alarms import GenericAlarms
from ctr_pipeline.training.drilling.scored_drill import DrillTask, names, places, score_drill

WARNED = {
    "other_column_read", "rates_exchanged", "robots_click", "smoothing_too_strong", "two_hash_seeds", "whole_numbers"
}  # fmt: skip
"""Faults of declared settings and of rows that a healthy log may have too: they are warned of, and nothing is refused."""

RECORD = StepRecord(
    step=0, epoch=0, loss=0.5, task_losses={}, grad_norm=0.2, norm_ratio=None, clipped=False, skipped=False,
    learning_rate=0.1, rows=200,
)  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "norm", "name"),
    [(0.5, 1.9, None), (0.5, 2.1, "norm"), (1.4, 0.2, None), (1.6, 0.2, "loss"), (float("nan"), 0.2, "not_finite")],
)
def test_generic_alarms_compare_with_running_medians(loss: float, norm: float, name: str | None) -> None:
    alarms = GenericAlarms()
    for step in range(30):
        alarms.on_step(replace(RECORD, step=step), 100)
    alarms.on_step(replace(RECORD, step=30, loss=loss, grad_norm=norm), 100)
    assert [(alarm.name, alarm.step) for alarm in alarms.alarms] == ([] if name is None else [(name, 30)])


@pytest.mark.parametrize(
    ("fault", "rule", "generic"),
    [
        ("dead_relu", "dead_relu", []),
        ("log_of_negative", "exploding_tensor", ["not_finite"]),
    ],
)
def test_default_rules_fire(fault: str, rule: str, generic: list[str], tmp_path: Path) -> None:
    rules, alarms = DefaultRules(), GenericAlarms()
    drill = prepare_drill(fault_named(fault), 1, tmp_path).run(contracts=False, observers=(rules, alarms))
    rules.finish(drill)
    alarms.finish(drill)
    assert rule in {alarm.name for alarm in rules.alarms}
    assert len({alarm.name for alarm in rules.alarms}) == len(rules.alarms)
    assert [alarm.name for alarm in alarms.alarms] == generic


def test_watching_changes_nothing(tmp_path: Path) -> None:
    short = replace(BENIGN[0], training={"epochs": 1})
    watched = prepare_drill(short, 1, tmp_path / "a").run(observers=(GenericAlarms(), DefaultRules()))
    assert watched == prepare_drill(short, 1, tmp_path / "b").run()


def test_rules_may_stand_for_known_faults_only() -> None:
    assert {name for right in RIGHT_FOR.values() for name in right} <= {fault.name for fault in registered_faults()}


def test_a_scored_drill_has_causes_a_place_and_what_baselines_saw() -> None:
    task = DrillTask(fault="log_of_negative", healthy=False, seed=1)
    found = score_drill(task)
    assert (found.half, found.stopped, found.found_by) == ("development", True, "activation")
    assert found.generic is not None
    assert [alarm.name for alarm in found.generic] == ["not_finite"]
    assert found.rules
    assert score_drill(task) == found


def test_a_triage_that_breaks_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("no gradient")

    monkeypatch.setattr("ctr_pipeline.training.drilling.scored_drill.triage_of", breaks)
    found = score_drill(DrillTask(fault="leak", healthy=False, seed=1, baselines=False))
    assert (found.causes, found.rank, found.trouble) == ((), None, "RuntimeError: no gradient")
    assert (found.generic, found.rules) == (None, None)


def test_a_right_cause_at_a_right_place_is_located() -> None:
    before = open_datasets()
    found = score_drill(DrillTask(fault="unnormalised_feature", healthy=False, seed=1, baselines=False))
    assert (found.rank, found.location, found.located) == (1, "rating", True)
    # Hundreds of drills in one process would else run out of files.
    assert open_datasets() <= before


def open_datasets() -> int:
    """Packed datasets that something refers to."""
    gc.collect()
    # By type: to ask an object for its class may run it.
    return sum(type(found) is PackedDataset for found in gc.get_objects())


def test_right_names_and_places() -> None:
    assert names(fault_named("noisy_leak"), "leak")
    assert names(fault_named("schedule_stuck"), "tiny_lr")
    assert not names(fault_named("schedule_stuck"), "huge_lr")
    assert places(("tower.",), "tower.0.linear")
    assert not places(("tower",), "tower.0.linear")
    assert places(("ad",), "query × ad")
    assert not places(("ad",), None)


def test_the_score_of_a_half_and_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    other = "robots_click"
    monkeypatch.setitem(faults._FAULTS, other, replace(fault_named(other), half="scored"))
    found = score_drills(1, "all", faults=["leak", other], baselines=False, healthy=False, progress=lines.append)
    assert {row["fault"] for row in found["drills"]} == {"leak", other}
    assert len(lines) == 2
    assert [half["half"] for half in found["halves"]] == ["development", "scored"]
    scores, alarms = score_tables(found)
    assert (scores.row_count, alarms.row_count) == (12, 4)
    assert "development, ends with nothing red: none" in score_lines(found)
    for wrong in ({"half": "none"}, {"half": "development", "faults": [other]}):
        with pytest.raises(DrillError):
            score_drills(1, **wrong)  # type: ignore[arg-type]


@pytest.mark.nightly
def test_no_fault_of_the_development_half_ends_green_and_no_healthy_variant_is_refused() -> None:
    found = score_drills(2, "development", baselines=False, processes=2)
    [half] = found["halves"]
    assert half["green_faults"] == {}
    assert set(half["silent_faults"]) <= WARNED
    assert found["healthy"]["refused"] == {}
    assert half["wrong_while_sure"]["count"] == 0
