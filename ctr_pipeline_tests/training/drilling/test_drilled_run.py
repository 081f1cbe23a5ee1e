"""Faults in real trainings: each is reproducible, and none that contracts are made for ends without an error."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from ctr_pipeline.gradients.drills import fault_named, registered_faults
from ctr_pipeline.gradients.drills.benign_variants import BENIGN
from ctr_pipeline.gradients.drills.fault import DrillError, Fault, register_fault
from ctr_pipeline.gradients.triage.causes import CAUSES
from ctr_pipeline.training.drilling import run_drill, write_tarball
from ctr_pipeline.training.drilling.scored_drill import places

STOPPED_BY = {
    "absent_at_scoring": "known_values",
    "accum_nodiv": "loss_oracle",
    "amp_no_scaling": "first_gradient",
    "amp_no_unscale": "first_gradient",
    "bad_init_const": "differing_units",
    "betas_exchanged": "optimizer_settings",
    "clip_per_param": "first_gradient",
    "dead_relu": "live_units",
    "decay_of_layers": "decay_strength",
    "epsilon_one": "optimizer_epsilon",
    "fp16_embedding": "parameter_types",
    "frozen_tower": "optimizer_coverage",
    "hash_clip": "id_concentration",
    "huge_lr": "update_ratio",
    "id_out_of_range": "input",
    "ips_unclipped": "effective_rows",
    "l2_in_adam": "untouched_rows",
    "label_permute": "label_alignment",
    "leak": "single_feature",
    "log0": "loss_range",
    "log_of_negative": "activation",
    "mask_empty": "empty_mask",
    "mask_inverted": "funnel",
    "missing_zero_grad": "gradients_reset",
    "mostly_unknown": "known_values",
    "nan_feature_at_step": "missing_values",
    "new_embedding_huge": "table_scale",
    "noisy_leak": "feature_leak",
    "open_window": "outcome_rates",
    "other_statistics": "standardisation",
    "padding_row_trained": "padding_rows",
    "penalty_of_rows": "decay_strength",
    "price_in_cents": "standardisation",
    "refactor_incident": "table_scale",
    "row_shift": "row_shift",
    "rows_in_order": "batch_composition",
    "schedule_stuck": "learning_rate",
    "stale_batch": "repeated_batch",
    "stale_optimizer": "optimizer_coverage",
    "task_weight_huge": "task_balance",
    "temperature": "logit_scale",
    "unnormalised_feature": "feature_scale",
    "wrong_offsets": "own_rows",
}


@pytest.mark.parametrize("name", STOPPED_BY)
def test_silent_faults_are_stopped_within_the_first_steps(name: str, tmp_path: Path) -> None:
    drill = run_drill(fault_named(name), 2, tmp_path)
    assert drill.found_by == STOPPED_BY[name]
    assert drill.stopped
    latest = {"id_out_of_range": 179, "nan_feature_at_step": 80, "schedule_stuck": 48}.get(name, 2)
    assert drill.found_at is not None
    assert drill.found_at <= latest
    if right := fault_named(name).located:
        assert drill.cause is not None
        assert places(right, drill.cause.tensor) or places(right, drill.cause.feature)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_healthy_training_has_no_error(seed: int, tmp_path: Path) -> None:
    drill = run_drill(None, seed, tmp_path)
    assert (drill.cause, drill.stopped, drill.warnings) == (None, False, ())
    assert drill.validation is not None
    assert drill.validation < 0.95


def test_the_incident_without_contracts_is_the_story(tmp_path: Path) -> None:
    drill = run_drill(fault_named("refactor_incident"), 1, tmp_path, contracts=False)
    norms = [float(line.split("grad_norm=")[1].split()[0]) for line in drill.metrics if "grad_norm=" in line]
    # It learns for a hundred steps, and then it takes few.
    assert len(norms) > 100
    assert max(norms[:100]) < 50
    assert max(norms) > 1e4
    assert drill.cause is not None
    assert drill.cause.kind != "contract"


def test_a_tarball_has_the_same_bytes_again(tmp_path: Path) -> None:
    fault = replace(fault_named("missing_zero_grad"), training={"epochs": 1})
    for name in ("first", "second"):
        write_tarball(fault, 3, tmp_path / name, contracts=True)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    write_tarball(fault, 4, tmp_path / "other", contracts=False)
    assert (tmp_path / "other").read_bytes() != (tmp_path / "first").read_bytes()
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "first").read_bytes())) as tar:
        files = {member.name.split("/")[1]: tar.extractfile(member) for member in tar}
        content = {name: file.read() for name, file in files.items() if file is not None}
    assert {"metrics.log", "report.md", "meta.json", "SHA256SUMS", "steps.jsonl", "contracts.json"} <= set(content)
    # The checkpoint and each step of the training as it goes on, though contracts stop it at its second.
    assert "checkpoint.pt" in content
    lines = content["metrics.log"].decode().splitlines()
    assert sum(line.startswith("step=") for line in lines) == 60
    first = lines[0]
    for name in ("loss", "gradient_mean", "first_mean", "first_variance", "last_mean", "last_variance"):
        assert f"{name}=" in first
    assert json.loads(content["meta.json"])["found_by"] == "gradients_reset"
    report = content["report.md"].decode()
    assert "With contracts: stopped at step 1." in report
    assert "without the fault: 180 steps, normalised entropy" in report
    assert len(report.split()) <= 500
    assert all(f"## {part}" in report for part in ("Symptom", "Cause", "Fix", "Verification"))


def test_families_are_whole_in_one_half() -> None:
    halves: dict[str, set[str]] = {}
    for fault in registered_faults():
        halves.setdefault(fault.family, set()).add(fault.half)
    assert all(len(found) == 1 for found in halves.values())
    handbook = {"label_permute", "huge_lr", "missing_zero_grad", "loss_sum", "amp_no_scaling", "refactor_incident"}
    assert handbook <= {fault.name for fault in registered_faults()}


def test_right_names_are_causes_or_the_name_of_a_fault_that_no_cause_explains() -> None:
    for fault in registered_faults():
        assert set(fault.right_names) <= {*CAUSES, fault.name}, fault.name
    assert len({fault.family for fault in registered_faults()}) > 80


def test_a_fault_of_the_other_rows_leaves_the_training_rows(tmp_path: Path) -> None:
    healthy, skewed = (
        run_drill(replace(fault, training={"epochs": 1}), 1, tmp_path / fault.name, contracts=False)
        for fault in (BENIGN[0], fault_named("absent_at_scoring"))
    )
    assert skewed.metrics[:60] == healthy.metrics[:60]
    assert healthy.validation is not None
    assert skewed.validation is not None
    assert skewed.validation > healthy.validation + 0.02


def test_an_error_that_a_fault_raises_is_a_result(tmp_path: Path) -> None:
    def raises(*_: object) -> None:
        raise RuntimeError("no such table")

    fault = Fault(name="raises", family="raises", symptom="", cause="", fix="", batches=raises)  # type: ignore[arg-type]
    drill = run_drill(fault, 1, tmp_path)
    assert (drill.found_by, drill.stopped, drill.crash) == ("exception", True, "RuntimeError: no such table")


def test_unknown_and_repeated_faults_are_refused() -> None:
    with pytest.raises(DrillError, match="no fault 'nothing'; known: absent_at_scoring, accum_nodiv"):
        fault_named("nothing")
    known = fault_named("leak")
    with pytest.raises(ValueError, match="already"):
        register_fault(known)
    with pytest.raises(ValueError, match="both halves"):
        register_fault(Fault(name="other", family="leakage", half="scored", symptom="", cause="", fix=""))
