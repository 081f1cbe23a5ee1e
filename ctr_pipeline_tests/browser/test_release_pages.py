"""A canary that was rolled back, as a person sees it in Dagster and in MLflow."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver

from ctr_pipeline.commands.pages import start_pages, stop_pages
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.release import Arm, TrialMode, in_canary
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.browser.test_pages import CUT_TABLES, _text, browser
from ctr_pipeline_tests.end_to_end.fixtures import await_url, free_port
from ctr_pipeline_tests.serving.conftest import bundle, shop
from ctr_pipeline_tests.serving.release.conftest import database, plus_one
from ctr_pipeline_tests.serving.release.registered import NOW, Registered
from ctr_pipeline_tests.serving.release.test_canary_asset import HOUR, START, logged, shown, write_tables
from ctr_pipeline_tests.serving.shop import TIMED, Shop

__all__ = ["browser", "bundle", "database", "plus_one", "shop"]


@dataclass(frozen=True)
class Pages:
    dagster: str
    mlflow: str
    registered: Registered
    version: str


@pytest.fixture
def pages(
    shop: Shop, tmp_path: Path, database: Path, bundle: Bundle, plus_one: Bundle, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pages]:
    """Pages of a data root whose canary the asset has just rolled back by its outcomes."""
    registered, spec = Registered.make(tmp_path / "root", database, TIMED), parse_spec(TIMED, "test")
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", registered.releases.environment.pseudonym_key)
    registered.register(bundle.directory, "champion")
    version = registered.register(plus_one.directory, "challenger")
    trial = registered.releases.start(TrialMode.CANARY, None, 0.3, NOW)
    rng, count = np.random.default_rng(3), 12_000
    numeric, ids = shop.rows(count)
    truth = bundle.score(numeric, ids).probabilities
    arms = [Arm.CHALLENGER if in_canary(f"u{at % 700}", trial.id, 0.3) else Arm.CHAMPION for at in range(count)]
    is_own = np.array([arm is Arm.CHALLENGER for arm in arms])[:, None]
    scores = np.where(is_own, plus_one.score(numeric, ids).probabilities, truth)
    outcomes = rng.random((count, 3)) < truth
    outcomes[:, 1] &= outcomes[:, 0]
    rows, events = shown(spec, count, outcomes)
    log = logged(rows, arms, {Arm.CHAMPION: bundle.sha256, Arm.CHALLENGER: plus_one.sha256}, scores)
    write_tables(registered.root, spec, rows, events, START + 120 * HOUR, log)
    status = registered.releases.check()
    assert status.last is not None
    assert status.last.outcome == "rolled back"
    port, mlflow_port = free_port(), free_port()
    processes = start_pages(registered.releases.deployment.paths, port, mlflow_port)
    found = Pages(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{mlflow_port}", registered, version)
    try:
        await_url(f"{found.dagster}/server_info", processes["webserver"])
        await_url(f"{found.mlflow}/health", processes["mlflow"])
        yield found
    finally:
        stop_pages(processes)


@pytest.mark.nightly
def test_a_rollback_is_seen_with_when_and_why(browser: webdriver.Chrome, pages: Pages, tmp_path: Path) -> None:
    last = pages.registered.releases.registry.read().last
    assert last is not None
    told = f"Version {last.version} was rolled back at {last.at}"
    text = _text(browser, f"{pages.dagster}/assets/canary", told, "observed/expected", folder=tmp_path, name="asset")
    assert last.reason in " ".join(text.split())
    assert browser.execute_script(CUT_TABLES) == []
    checks = f"{pages.dagster}/assets/canary?view=checks"
    _text(browser, checks, "guardrails", told, folder=tmp_path, name="check")
    model = f"{pages.mlflow}/#/models/shop"
    when = f"Rolled back {last.at[:16].replace('T', ' ')}"
    listed = _text(browser, model, "champion", when, folder=tmp_path, name="model")
    assert f"Version {pages.version}" in listed
    version = f"{model}/versions/{pages.version}"
    text = _text(browser, version, "rolled_back.reason", when, folder=tmp_path, name="version")
    assert f"{when} UTC: {last.reason}" in " ".join(text.split())
