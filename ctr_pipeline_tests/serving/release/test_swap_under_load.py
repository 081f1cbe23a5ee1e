"""A service under load while versions are promoted, rolled back, refused and tried."""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ctr_pipeline.orchestration.resources.releases import CHALLENGER, REASON_TAG, ROLLED_BACK_TAG
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.release import TrialMode
from ctr_pipeline_tests.serving.release.registered import NOW, Load, Registered, Service


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_fails_while_versions_change(
    registered: Registered, bundle: Bundle, second: Bundle, other_type: Bundle, workers: int
) -> None:
    registered.register(bundle.directory, "champion")
    other = registered.register(second.directory, "challenger")
    broken = registered.register(other_type.directory)
    (registered.bundle_of(broken) / "golden.json").write_text("{}")
    with registered.served("--workers", str(workers)) as service, Load(service.port) as load:
        load.await_model(bundle.sha256)
        registered.promote(other)
        load.await_model(second.sha256)
        assert service.model()["version"] == other
        registered.releases.roll_back("a test", NOW)
        load.await_model(bundle.sha256)
        assert registered.releases.registry.version(other).tags[REASON_TAG] == "a test"
        # By hand: the command refuses it.
        client = registered.releases.registry.tracking.client()
        client.set_registered_model_alias("shop", "champion", broken)
        deadline = time.monotonic() + 60
        # Whichever process answers: each looks at the state by itself.
        while not (reason := service.model()["refused"].get(broken)):
            assert time.monotonic() < deadline, service.log.read_text()
            time.sleep(0.2)
        assert "golden" in reason
        while service.metric("ctr_serve_refused_versions") != 1:
            assert time.monotonic() < deadline, service.get("/metrics")
            time.sleep(0.2)
        assert f"version {broken} is not served" in service.log.read_text()
        load.await_model(bundle.sha256)
        # What was served lies in a copy: a retrain may remove it.
        shutil.rmtree(registered.root / "training")
        assert (load.failures, len(service.workers())) == ([], workers)
        killed = service.workers()[0]
        os.kill(killed, signal.SIGKILL)
        started = time.monotonic()
        while killed in service.workers() or len(service.workers()) < workers:
            assert time.monotonic() - started < 60
            time.sleep(0.02)
        service.await_answer()
        assert time.monotonic() - started < 60
        load.await_model(bundle.sha256)
        load.failures.clear()
        load.await_model(bundle.sha256)
        assert load.failures == []


def test_a_canary_that_fails_is_rolled_back_by_the_service(
    registered: Registered, bundle: Bundle, second: Bundle, other_type: Bundle
) -> None:
    registered.register(bundle.directory, "champion")
    healthy = registered.register(second.directory, "challenger")
    failing = registered.register(other_type.directory)
    bodies = tuple(b'{"shared": {"ad": "a1", "price": %d}}' % price for price in range(50))
    with registered.served() as service, Load(service.port, bodies=bodies) as load:
        registered.releases.start(TrialMode.CANARY, None, 0.4, NOW)
        deadline = time.monotonic() + 60
        while service.model()["trial"] is None or not load.answers[second.sha256]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        load.answers.clear()
        time.sleep(3)
        share = load.answers[second.sha256] / load.answers.total()
        assert 0.15 < share < 0.65
        assert registered.releases.status().trial is not None
        registered.releases.stop("enough", NOW)

        trial = registered.releases.start(TrialMode.CANARY, failing, 0.4, NOW)
        deadline = time.monotonic() + 60
        while (last := registered.releases.status().last) is None or last.trial != trial.id:
            assert time.monotonic() < deadline, service.log.read_text()
            time.sleep(0.2)
        load.await_model(bundle.sha256)
        assert (last.outcome, last.version) == ("rolled back", failing)
        assert "failed to score" in last.reason
        assert service.metric("ctr_serve_arm_failures_total") >= 2
        assert load.failures == []
    held = registered.releases.registry.read()
    assert held.aliases.get(CHALLENGER) is None
    assert held.trial is None
    assert held.aliases["champion"] == "1"
    assert ROLLED_BACK_TAG in registered.releases.registry.version(failing).tags
    assert ROLLED_BACK_TAG not in registered.releases.registry.version(healthy).tags


def test_a_shadow_scores_and_does_not_answer(registered: Registered, bundle: Bundle, second: Bundle) -> None:
    registered.register(bundle.directory, "champion")
    registered.register(second.directory, "challenger")
    registered.releases.start(TrialMode.SHADOW, None, None, NOW)
    with registered.served() as service, Load(service.port) as load:
        load.await_model(bundle.sha256)
        assert service.model()["trial"]["mode"] == "shadow"
        assert service.metric("ctr_serve_shadow_logit_difference_count") > 10
        assert (load.failures, set(load.answers)) == ([], {bundle.sha256})
        assert service.stop() == 0
    assert service.log.read_text().count("\n") == 1


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_of_thousands_fails_during_many_changes(
    registered: Registered, bundle: Bundle, second: Bundle, workers: int
) -> None:
    first, releases = registered.register(bundle.directory, "champion"), registered.releases
    other = registered.register(second.directory)
    bodies = tuple(b'{"shared": {"ad": "a1", "price": %d}}' % price for price in range(50))
    answers: Counter[str] = Counter()
    changes = 0
    with registered.served("--workers", str(workers)) as service:
        with Load(service.port, senders=4, bodies=bodies) as load:
            for _ in range(7):
                releases.start(TrialMode.CANARY, other, 0.4, NOW)
                await_state(service, lambda model: model["trial"] is not None)
                releases.promote(releases.compare(other), "again", NOW)
                await_state(service, lambda model: model["version"] == other)
                # Not waited for: the rollback follows while servers take it over.
                releases.start(TrialMode.CANARY, first, 0.1, NOW)
                releases.roll_back("again", NOW)
                await_state(service, lambda model: model["version"] == first and model["trial"] is None)
                changes += 4
            answers += load.answers
        seconds = [load.percentile(percent) * 1000 for percent in (50, 99, 99.9)]
        swaps = service.metric("ctr_serve_swaps_total")
    print(
        f"{workers} workers: {answers.total()} requests, {changes} changes, {swaps:g} swaps, {len(load.failures)} failed; "
        f"p50 {seconds[0]:.1f}, p99 {seconds[1]:.1f}, p99.9 {seconds[2]:.1f} ms"
    )
    assert load.failures == []
    assert answers.keys() == {bundle.sha256, second.sha256}
    assert answers.total() >= 5000


def await_state(service: Service, reached: Callable[[dict[str, Any]], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached(service.model()):
        assert time.monotonic() < deadline, (service.model(), service.log.read_text())
        time.sleep(0.1)
