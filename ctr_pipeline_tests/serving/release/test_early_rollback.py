"""A canary of `ctr serve` whose clicks are posted as they happen: logit + 1 ends within minutes, a healthy one does not."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr_pipeline.calibration import PlattCalibrator
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.release import TrialMode
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.serving.release.registered import Registered, Service
from ctr_pipeline_tests.serving.shop import TIMED, Shop

USERS = 200
CANARY = "canary-impression-4711"


@dataclass
class Shoppers:
    """Users who ask for scores at a rate, and whose clicks happen with the champion's probabilities."""

    service: Service
    true: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    requests: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def learn(self, prices: range) -> None:
        """What the champion, which is alone yet, says of each request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port)
        for price in prices:
            self.true[str(price)] = self._post(connection, "/score", body(price, 0))["scores"]["click"]
        connection.close()

    def start(self, senders: int, per_second: float) -> None:
        for at in range(senders):
            self._threads.append(threading.Thread(target=self._ask, args=(at, senders / per_second)))
            self._threads[-1].start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, sender: int, pause: float) -> None:
        rng, number, events = np.random.default_rng(sender), 0, list[dict[str, Any]]()
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=10)
        began = time.monotonic()
        while not self._stop.wait(max(0.0, began + number * pause - time.monotonic())):
            number, price = number + 1, int(rng.integers(0, USERS))
            self._post(connection, "/score", body(price, f"{sender} {number}"))
            self.requests += 1
            now = time.time_ns() // 1000
            for at, true in enumerate(self.true[str(price)]):
                one = {"impression_id": f"{CANARY} {sender} {number} {at}", "ts": now}
                events.append({"event": "impression", **one, "keys": {"ad": "a1"}})
                if rng.random() < true:
                    events.append({"event": "click", **one})
            if number % 10 == 0:
                self._post(connection, "/events", {"events": events})
                events = []
        connection.close()

    def _post(self, connection: http.client.HTTPConnection, path: str, content: Any) -> Any:
        try:
            connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
            connection.close()
            return None
        if answer.status != 200:
            self.failures.append(f"{answer.status} {found}")
        return found


def now() -> datetime:
    return datetime.now(UTC)


def body(price: int, name: object) -> dict[str, Any]:
    names = [f"{CANARY} {name} {at}" for at in range(2)]
    candidates = {"ad": ["a1", "a2"], "impression_id": names, "rating": [1, 5]}
    return {"shared": {"price": price, "device": "phone"}, "candidates": candidates}


@pytest.fixture
def timed(tmp_path: Path, database: Path) -> Registered:
    return Registered.make(tmp_path / "root", database, TIMED)


@pytest.fixture
def exported(shop: Shop, tmp_path: Path) -> Callable[[str, float], Bundle]:
    """The shop's model with its calibrated logits higher by a number."""

    def export(name: str, higher: float) -> Bundle:
        fitted = {
            task: PlattCalibrator(a=found.a, b=found.b + higher)
            for task, found in shop.calibrators.items()
            if isinstance(found, PlattCalibrator)
        }
        spec = parse_spec(TIMED, "test")
        return replace(shop, spec=spec, calibrators=fitted).export(tmp_path / name)

    return export


@pytest.mark.nightly
def test_logit_plus_one_is_rolled_back_within_minutes_and_a_healthy_one_is_not(
    timed: Registered, exported: Callable[[str, float], Bundle]
) -> None:
    releases = timed.releases
    timed.register(exported("champion", 0.0).directory, "champion")
    healthy = timed.register(exported("healthy", 1e-6).directory)
    broken = timed.register(exported("broken", 1.0).directory)
    with timed.served("--workers", "2") as service:
        shoppers = Shoppers(service)
        shoppers.learn(range(USERS))
        shoppers.start(senders=4, per_second=100)
        try:
            releases.start(TrialMode.CANARY, healthy, 0.05, now())
            time.sleep(120)
            assert releases.status().trial is not None, releases.status().last
            kept = service.metric("ctr_serve_canary_impressions_total")
            assert kept > 10_000
            releases.stop("enough", now())

            began = time.monotonic()
            trial = releases.start(TrialMode.CANARY, broken, 0.05, now())
            while (last := releases.status().last) is None or last.trial != trial.id:
                assert time.monotonic() - began < 300, (
                    service.log.read_text(),
                    shoppers.failures[:3],
                    shoppers.requests,
                )
                time.sleep(0.5)
            took = time.monotonic() - began
        finally:
            shoppers.stop()
        assert (last.outcome, last.version, shoppers.failures) == ("rolled back", broken, [])
        assert "reported soon, click" in last.reason
        assert service.model()["trial"] is None
        print(f"rolled back after {took:.0f} s, {shoppers.requests} requests: {last.reason}")
        log = service.log.read_text()
    assert CANARY not in log
    assert not any(CANARY.encode() in path.read_bytes() for path in timed.root.rglob("*") if path.is_file())
