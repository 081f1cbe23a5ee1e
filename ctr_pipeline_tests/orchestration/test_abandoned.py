"""Runs left open by a killed process are closed; runs of others are not."""

from pathlib import Path

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from mlflow.entities import LoggedModelStatus

from ctr_pipeline.orchestration.instance import COMMAND_TAG, close_abandoned
from ctr_pipeline.orchestration.resources import TrackingResource
from ctr_pipeline.orchestration.stages import RETRAIN_JOB

OURS = {COMMAND_TAG: "run"}
STARTED = dg.DagsterRunStatus.STARTED


def test_runs_of_a_killed_process_fail_and_finished_ones_stay() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        statuses = (STARTED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.SUCCESS)
        started, waiting, done = (
            create_run_for_test(instance, job_name="daily_ingest", status=status, tags=OURS).run_id
            for status in statuses
        )
        assert set(close_abandoned(instance, None)) == {started, waiting}
        found = {run.run_id: run.status for run in instance.get_runs()}
        assert found == {
            started: dg.DagsterRunStatus.FAILURE,
            waiting: dg.DagsterRunStatus.FAILURE,
            done: dg.DagsterRunStatus.SUCCESS,
        }
        assert close_abandoned(instance, None) == []


def test_runs_that_others_launched_are_left_alone() -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="ctr_pipeline.definitions"))
    launched = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), "daily_ingest")
    with dg.DagsterInstance.ephemeral() as instance:
        create_run_for_test(instance, job_name="daily_ingest", status=STARTED)
        create_run_for_test(instance, "daily_ingest", status=STARTED, tags=OURS, remote_job_origin=launched)
        assert close_abandoned(instance, None) == []


def test_the_slot_of_a_killed_training_is_free_again_and_that_of_a_living_one_is_not() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        storage = instance.event_log_storage
        for pool in ("gpu", "other"):
            storage.set_concurrency_slots(pool, 1)
        killed = create_run_for_test(instance, job_name=RETRAIN_JOB, status=STARTED, tags=OURS).run_id
        living = create_run_for_test(instance, job_name=RETRAIN_JOB, status=STARTED).run_id
        assert storage.claim_concurrency_slot("gpu", killed, "ranker").is_claimed
        assert storage.claim_concurrency_slot("other", living, "ranker").is_claimed
        close_abandoned(instance, None)
        assert storage.claim_concurrency_slot("gpu", "next", "ranker").is_claimed
        assert not storage.claim_concurrency_slot("other", "next", "ranker").is_claimed


def test_the_mlflow_run_of_a_killed_training_is_closed(tmp_path: Path) -> None:
    tracking = TrackingResource(
        tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", artifact_root=str(tmp_path / "artifacts"), experiment="ads"
    )
    with dg.DagsterInstance.ephemeral() as instance:
        run = create_run_for_test(instance, job_name=RETRAIN_JOB, status=STARTED, tags=OURS)
        killed, other = (tracking.start_run("ads", {"dagster.run_id": name}, {}) for name in (run.run_id, "another"))
        tracking.start_model(killed, "ads-2026-01-02", "ranker", {}, {})
        assert close_abandoned(instance, tracking) == [run.run_id]
        statuses = {name: tracking.client().get_run(name).info.status for name in (killed, other)}
    assert statuses == {killed: "KILLED", other: "RUNNING"}
    [output] = tracking.client().get_run(killed).outputs.model_outputs
    assert tracking.client().get_logged_model(output.model_id).status == LoggedModelStatus.FAILED
