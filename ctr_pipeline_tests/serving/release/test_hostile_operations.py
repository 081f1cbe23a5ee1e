"""What goes wrong around a service: each is told with what to do, and requests are answered all the while."""

import logging
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctr_pipeline.commands.follow_registry import RegistryFollower, first_state
from ctr_pipeline.commands.release import Releases
from ctr_pipeline.commands.served_models import EndedTrials, ModelLoader, first_arms
from ctr_pipeline.commands.serving_folder import ServingFolder
from ctr_pipeline.orchestration.resources import TrackingResource
from ctr_pipeline.orchestration.resources.releases import REASON_TAG, ROLLED_BACK_TAG, ReleaseError, ReleaseRegistry
from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.release import TrialMode
from ctr_pipeline_tests.serving.release.registered import NOW, Registered


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def follower(registered: Registered) -> RegistryFollower:
    releases = registered.releases
    folder = ServingFolder(registered.root / "serving")
    return RegistryFollower(releases.registry, folder, releases.environment, time.monotonic, lambda: NOW)


def test_a_deleted_version_holds_up_nothing(
    registered: Registered, bundle: Bundle, second: Bundle, follower: RegistryFollower
) -> None:
    first = registered.register(bundle.directory, "champion")
    other = registered.register(second.directory, "challenger")
    client = registered.releases.registry.tracking.client()
    registered.releases.start(TrialMode.CANARY, other, None, NOW)
    assert follower.update().trial is not None
    client.delete_model_version("shop", other)
    state = follower.update()
    assert (state.champion.facts["version"], state.trial) == (first, None)
    assert "no version 2" in state.refused[other]
    # The trial can still be ended.
    assert registered.releases.status().trial is not None
    registered.releases.stop("deleted", NOW)
    third = registered.register(second.directory)
    registered.promote(third)
    assert follower.update().champion.sha256 == second.sha256
    client.delete_model_version("shop", first)
    assert follower.update().champion.sha256 == second.sha256
    # Without any champion servers go on with the last.
    client.delete_registered_model_alias("shop", "champion")
    with pytest.raises(Exception, match="no champion"):
        follower.update()
    state = follower.folder.state()
    assert state is not None
    assert state.champion.sha256 == second.sha256


class Killed(BaseException):
    """The process ends here."""


class KilledClient:
    """A client of MLflow whose process is killed before one of its changes."""

    def __init__(self, client: Any, after: int) -> None:
        self._client, self.left = client, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not name.startswith(("set_", "delete_", "update_")):
            return found

        def change(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return found(*arguments, **named)

        return change


@pytest.mark.parametrize("what", ["promote", "roll back", "start", "end"])
def test_a_command_that_is_killed_anywhere_can_be_repeated_and_servers_go_on(
    registered: Registered,
    bundle: Bundle,
    second: Bundle,
    plus_one: Bundle,
    follower: RegistryFollower,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = registered.register(bundle.directory, "champion")
    other, tried = registered.register(second.directory), registered.register(plus_one.directory)
    releases = registered.releases
    client = releases.registry.tracking.client()

    def begin() -> None:
        """The first is the champion, and the third is tried."""
        for version in (first, other):
            client.set_registered_model_alias("shop", "champion" if version == first else "previous", version)
        for version in (first, other, tried):
            for tag in (ROLLED_BACK_TAG, REASON_TAG):
                client.delete_model_version_tag("shop", version, tag)
        if what != "start":
            releases.start(TrialMode.CANARY, tried, 0.1, NOW)

    def act() -> None:
        if what == "promote":
            releases.promote(releases.compare(tried), "again", NOW)
        elif what == "roll back":
            releases.roll_back("a test", NOW)
        elif what == "start":
            releases.start(TrialMode.CANARY, tried, 0.1, NOW)
        else:
            trial = releases.registry.read().trial
            assert trial is not None
            releases.registry.end_trial(trial, "rolled back", "it fails", "2026-02-01T00:00:00+00:00")

    for after in range(20):
        begin()
        killed = KilledClient(client, after)
        with monkeypatch.context() as patch:
            patch.setattr(TrackingResource, "client", lambda _, killed=killed: killed)
            patch.setattr(releases.registry, "_client", killed)
            try:
                act()
                done = True
            except Killed:
                done = False
        state = follower.update()
        assert state.champion.sha256 in {bundle.sha256, second.sha256, plus_one.sha256}
        assert releases.status().versions
        if done:
            break
        held = releases.registry.read()
        if what == "promote" and held.aliases["champion"] == tried:
            # It is the champion: what is left of the trial is ended by hand.
            assert state.trial is None
        if held.trial is not None:
            releases.stop("put right", NOW)
        assert follower.update().trial is None
    else:
        raise AssertionError("it changes more than that")
    assert after >= 2


@pytest.mark.parametrize("store", ["http://somebody:secret@127.0.0.1:9", "sqlite:///{}/damaged.db"])
def test_a_service_starts_without_the_registry_and_says_so(
    registered: Registered,
    bundle: Bundle,
    second: Bundle,
    follower: RegistryFollower,
    caplog: pytest.LogCaptureFixture,
    store: str,
) -> None:
    (registered.root / "damaged.db").write_bytes(b"no database" * 1000)
    first = registered.register(bundle.directory, "champion")
    registered.register(second.directory, "challenger")
    tracking = TrackingResource(
        tracking_uri=store.format(registered.root), artifact_root=str(registered.root), experiment="none"
    )
    away = replace(follower, registry=ReleaseRegistry(tracking, "shop"))
    with pytest.raises(ReleaseError, match="is it running") as told:
        first_state(away)
    assert "secret" not in str(told.value)
    registered.releases.start(TrialMode.CANARY, None, None, NOW)
    assert follower.update().trial is not None
    with caplog.at_level(logging.ERROR):
        state = first_state(away)
    assert (state.champion.facts["version"], state.trial, state.challenger) == (first, None, None)
    assert follower.folder.state() == state
    assert f"Served is version {first}" in caplog.text
    assert "secret" not in caplog.text
    # Once the registry is back, so is the trial.
    assert follower.update().trial is not None


def test_a_clock_that_is_set_back_makes_no_old_state_fresh(tmp_path: Path) -> None:
    folder = ServingFolder(tmp_path)
    folder.touch_read()
    assert folder.read_seconds_ago() < 60
    ahead = time.time() + 86_400
    os.utime(folder.read_file, (ahead, ahead))
    assert folder.read_seconds_ago() == float("inf")


def test_of_two_operators_the_second_is_told(
    registered: Registered, bundle: Bundle, second: Bundle, plus_one: Bundle
) -> None:
    releases = registered.releases
    registered.register(bundle.directory, "champion")
    mine, yours = registered.register(second.directory), registered.register(plus_one.directory)
    compared = releases.compare(mine)
    registered.promote(yours)
    with pytest.raises(ReleaseError, match=f"version {yours} has become the champion.*ctr promote {mine}"):
        releases.promote(compared, None, NOW)
    assert releases.registry.read().aliases == {"champion": yours, "previous": "1"}


def test_promotions_at_once_leave_one_chain(
    registered: Registered, bundle: Bundle, second: Bundle, plus_one: Bundle
) -> None:
    registered.register(bundle.directory, "champion")
    versions = [registered.register(found.directory) for found in (second, plus_one)]
    told: list[str] = []

    def promote(version: str) -> None:
        own = Releases.of(registered.releases.deployment, registered.releases.environment)
        try:
            own.promote(own.compare(version), None, NOW)
            told.append(version)
        except ReleaseError:
            pass

    threads = [threading.Thread(target=promote, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = registered.releases.registry.read().aliases
    # Whoever was told so was the champion, and can be gone back to.
    assert held["champion"] in told
    assert held["previous"] == ("1" if len(told) == 1 else next(one for one in told if one != held["champion"]))


def test_a_damaged_copy_is_made_again(
    registered: Registered, bundle: Bundle, follower: RegistryFollower, caplog: pytest.LogCaptureFixture
) -> None:
    registered.register(bundle.directory, "champion")
    state = follower.update()
    (Path(state.champion.folder) / "model.onnx").write_bytes(b"")
    loader = ModelLoader(follower.folder, registered.releases.environment)
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            assert follower.update() == state

    with caplog.at_level(logging.ERROR):
        assert first_arms(loader, 10, pause).champion.bundle.sha256 == bundle.sha256
    assert len(looks) == 3
    assert [record.getMessage().startswith("a process cannot answer yet") for record in caplog.records] == [True]
    (Path(state.champion.folder) / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError):
        first_arms(ModelLoader(follower.folder, registered.releases.environment), 1, lambda _: None)


def test_an_end_that_cannot_be_written_is_written_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = ServingFolder(tmp_path)
    folder.ended.write_text("in the way of a folder, as a full disk is")
    ended = EndedTrials(folder)
    with caplog.at_level(logging.ERROR):
        ended.end("t1", "it is slow")
        ended.write()
    assert len(caplog.records) == 1
    assert "t1" in caplog.text
    folder.ended.unlink()
    ended.write()
    assert folder.ended_trials() == {"t1": "it is slow"}
    folder.forget_trial("t1")
    ended.write()
    assert folder.ended_trials() == {}


def test_a_copy_for_which_there_is_no_room_says_so(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, _: Path) -> None:
        # As it is raised for a tree of files.
        raise shutil.Error([(str(source), "there", "[Errno 28] No space left on device")])

    monkeypatch.setattr(shutil, "copytree", full)
    folder = ServingFolder(tmp_path)
    with pytest.raises(BundleError, match="No space left on device"):
        folder.copy(bundle.directory, "")
    assert list((tmp_path / "bundles").iterdir()) == []
