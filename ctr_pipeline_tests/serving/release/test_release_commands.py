"""`ctr promote`, `ctr rollback` and `ctr release`, on a real registry."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ctr_pipeline.commands.follow_registry import RegistryFollower, ServeError
from ctr_pipeline.commands.release import DESPITE_TAG, Releases
from ctr_pipeline.commands.served_models import ModelLoader
from ctr_pipeline.commands.serving_folder import ServingFolder
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.orchestration.assets.release import COMPARED_TAG, KEY_TAG, PASSED_TAG
from ctr_pipeline.orchestration.resources.releases import ReleaseError
from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.release import TrialMode
from ctr_pipeline_tests.serving.release.registered import NOW, Registered


def follower(registered: Registered) -> RegistryFollower:
    releases = registered.releases
    folder = ServingFolder(registered.root / "serving")
    return RegistryFollower(releases.registry, folder, releases.environment, lambda: 0.0, lambda: NOW)


def test_a_version_takes_over_and_the_one_before_comes_back(
    registered: Registered, bundle: Bundle, second: Bundle
) -> None:
    releases = registered.releases
    with pytest.raises(ReleaseError, match="no challenger"):
        releases.compare(None)
    first = registered.register(bundle.directory, "challenger")
    registered.promote(first)
    with pytest.raises(ReleaseError, match="no version before"):
        releases.roll_back("x", NOW)
    other = registered.register(second.directory, "challenger")
    comparison = releases.compare(None)
    assert comparison.champion is not None
    assert (comparison.champion.version, comparison.candidate.version) == (first, other)
    releases.promote(comparison, None, NOW)
    assert releases.registry.read().aliases == {"champion": other, "previous": first}
    with pytest.raises(ReleaseError, match="is the champion"):
        releases.compare(other)
    assert releases.roll_back("too many complaints", NOW) == (other, first)
    status = releases.status()
    assert {facts.version: facts.aliases for facts in status.versions} == {first: ("champion",), other: ("previous",)}
    described = releases.registry.tracking.client().get_model_version("shop", other).description
    assert described == "Rolled back 2026-02-01 00:00 UTC: too many complaints"
    # It is known why: it is not promoted again unless somebody decides so.
    again = releases.compare(other)
    assert ["too many complaints" in reason for reason in again.refusals] == [True]
    with pytest.raises(ReleaseError, match="too many complaints"):
        releases.promote(again, None, NOW)
    releases.promote(again, "they were about something else", NOW)
    assert releases.registry.version(other).tags[DESPITE_TAG] == "they were about something else"
    client = releases.registry.tracking.client()
    assert "after it had been rolled back" in client.get_model_version("shop", other).description
    assert releases.registry.read().aliases["champion"] == other


def test_what_is_broken_is_never_promoted_and_a_failed_comparison_only_deliberately(
    registered: Registered, bundle: Bundle, second: Bundle, other_type: Bundle
) -> None:
    releases = registered.releases
    registered.register(bundle.directory, "champion")
    damaged = registered.register(second.directory)
    (registered.bundle_of(damaged) / "model.onnx").write_bytes(b"")
    replaced = registered.register(second.directory)
    shutil.rmtree(registered.bundle_of(replaced))
    shutil.copytree(other_type.directory, registered.bundle_of(replaced))
    other_key = registered.register(second.directory, **{KEY_TAG: "0" * 16})
    worse = registered.register(second.directory, **{PASSED_TAG: "false", COMPARED_TAG: "click: NE +9 %."})
    for version, error, message in (
        (damaged, BundleError, "SHA-256"),
        (replaced, BundleError, "later retrain"),
        (other_key, ServeError, "another key"),
        ("77", ReleaseError, "no version 77"),
    ):
        with pytest.raises(error, match=message):
            releases.compare(version)
        with pytest.raises(error, match=message):
            releases.start(TrialMode.CANARY, version, None, NOW)
    with pytest.raises(ReleaseError, match="NE \\+9"):
        registered.promote(worse)
    assert releases.registry.read().aliases == {"champion": "1"}


def test_what_changes_for_requests_is_shown(registered: Registered, bundle: Bundle, other_type: Bundle) -> None:
    registered.register(bundle.directory, "champion")
    registered.register(other_type.directory, "challenger")
    assert registered.releases.compare(None).notes == ["features that it does not have any more: hour"]
    registered.promote("2")
    assert registered.releases.compare("1").notes == ["features that are new: hour"]
    # Requests may have the feature as long as the version that knows it is the one before.
    assert follower(registered).update().other_inputs == tuple(sorted(bundle.inputs))


def test_a_trial_ends_with_what_it_was_compared_with(
    registered: Registered, bundle: Bundle, second: Bundle, plus_one: Bundle
) -> None:
    releases = registered.releases
    with pytest.raises(ReleaseError, match="no version of shop is tried"):
        releases.stop("x", NOW)
    registered.register(bundle.directory, "champion")
    other = registered.register(second.directory, "challenger")
    third = registered.register(plus_one.directory)
    started = releases.start(TrialMode.CANARY, None, None, NOW)
    assert (started.version, started.share) == (other, 0.05)
    assert (started.rules.slow_ms, started.rules.low, started.rules.false_alarms) == (8.0, 0.9, 0.01)
    # A larger share keeps the users of the smaller one.
    assert releases.start(TrialMode.CANARY, None, 0.2, NOW) == replace(started, share=0.2)
    with pytest.raises(ReleaseError, match="Stop that first"):
        releases.start(TrialMode.SHADOW, third, None, NOW)
    shadow = releases.start(TrialMode.SHADOW, None, None, NOW)
    assert (shadow.mode, shadow.share, shadow.id != started.id) == (TrialMode.SHADOW, 0.0, True)
    registered.promote(third)
    status = releases.status()
    assert status.trial is None
    assert status.last is not None
    assert (status.last.outcome, status.last.trial) == ("stopped", shadow.id)
    releases.start(TrialMode.CANARY, other, None, NOW)
    registered.promote(other)
    last = releases.status().last
    assert last is not None
    assert last.outcome == "promoted"


def test_the_follower_tells_what_to_serve(registered: Registered, bundle: Bundle, second: Bundle) -> None:
    found = follower(registered)
    with pytest.raises(ServeError, match="no champion"):
        found.update()
    first = registered.register(bundle.directory, "champion")
    other = registered.register(second.directory, "challenger")
    trial = registered.releases.start(TrialMode.CANARY, None, None, NOW)
    state = found.update()
    assert state.challenger is not None
    assert (state.champion.sha256, state.challenger.sha256, state.trial) == (bundle.sha256, second.sha256, trial)
    assert (state.champion.facts["version"], state.refused) == (first, {})
    assert found.folder.state() == state
    # A server ends the trial: the registry learns of it, once.
    found.folder.end_trial(trial.id, "it is slow")
    state = found.update()
    assert (state.challenger, state.trial, found.folder.ended_trials()) == (None, None, {})
    last = registered.releases.status().last
    assert last is not None
    assert (last.outcome, last.reason, last.version) == ("rolled back", "it is slow", other)
    # A copy that is gone is made again; without the source, the one before goes on.
    shutil.rmtree(found.folder.root / "bundles")
    assert found.update().champion == state.champion
    client = registered.releases.registry.tracking.client()
    broken = registered.register(second.directory, bundle_sha256="f" * 64)
    client.set_registered_model_alias("shop", "champion", broken)
    state = found.update()
    assert (state.champion.sha256, list(state.refused)) == (bundle.sha256, [broken])


def test_a_service_that_starts_after_a_change_waits_for_it(
    registered: Registered, bundle: Bundle, second: Bundle
) -> None:
    registered.register(bundle.directory, "champion")
    registered.register(second.directory, "challenger")
    found = follower(registered)
    steps = [
        lambda: registered.releases.start(TrialMode.CANARY, None, None, NOW),
        lambda: registered.releases.stop("x", NOW),
        lambda: registered.promote("2"),
        lambda: registered.releases.roll_back("x", NOW),
    ]
    for step in steps:
        found.update()
        assert found.folder.read_seconds_ago() < 60
        step()
        assert found.folder.read_seconds_ago() == float("inf")


def test_a_challenger_that_cannot_be_opened_does_not_hold_up_the_champion(
    registered: Registered, bundle: Bundle, second: Bundle
) -> None:
    first = registered.register(bundle.directory, "champion")
    registered.register(second.directory, "challenger")
    registered.releases.start(TrialMode.CANARY, None, None, NOW)
    found = follower(registered)
    state = found.update()
    assert state.challenger is not None
    (Path(state.challenger.folder) / "golden.json").write_text("{}")
    arms = ModelLoader(found.folder, registered.releases.environment).arms()
    assert (arms.champion.facts["version"], arms.challenger, arms.trial) == (first, None, None)
    assert "golden.json" in arms.refused["2"]


def test_versions_of_other_keys_are_not_served(registered: Registered, bundle: Bundle) -> None:
    registered.register(bundle.directory, "champion")
    other = Environment.of({"HOME": str(registered.root), "CTR_PSEUDONYM_KEY": "another key of the tests"})
    found = follower(replace(registered, releases=Releases.of(registered.releases.deployment, other)))
    with pytest.raises(ServeError, match="another key"):
        found.update()
