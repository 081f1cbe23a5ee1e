"""The pages as a person sees them, in headless Chromium."""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from ctr_pipeline.orchestration.stages import INGEST_STEP, names
from ctr_pipeline_tests.end_to_end.fixtures import Servers

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
WINDOW = (1800, 1800)
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

CUT_TABLES = """
const cut = [];
for (const table of document.querySelectorAll('td table')) {
  const right = table.getBoundingClientRect().left + table.scrollWidth;
  for (let box = table; box !== document.body; box = box.parentElement) {
    // What else a box holds may be wider, such as the lines of a stack trace with the folder of the checkout in them.
    const hidden = right - (box.getBoundingClientRect().left + box.clientLeft + box.clientWidth);
    if (hidden > 2 && getComputedStyle(box).overflowX !== 'visible') {
      cut.push(table.closest('td').parentElement.cells[0].innerText + ': ' + hidden);
      break;
    }
  }
}
return cut;
"""
"""Names of the tables of a page that are to be scrolled sideways, with what is hidden, in pixels."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed (Debian packages chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_window_size(*WINDOW)
    try:
        yield driver
    finally:
        driver.quit()


def _text(browser: webdriver.Chrome, url: str, *expected: str, folder: Path, name: str) -> str:
    """The page's text once it shows all of ``expected``; leaves a picture of it in ``folder``."""
    browser.get(url)

    def shown(driver: webdriver.Chrome) -> str | bool:
        text = driver.find_element(By.TAG_NAME, "body").text
        return text if all(word in text for word in expected) else False

    try:
        return str(WebDriverWait(browser, 60).until(shown))
    finally:
        browser.save_screenshot(str(folder / f"{name}.png"))


@pytest.mark.parametrize(
    ("group", "assets"),
    [
        ("ingest", (*names(step=INGEST_STEP), "event_references")),
        ("monitoring", ("profile",)),
        ("tables", ("labels", "history")),
        ("dataset", ("examples", "position_propensity", "advertiser_quality", "vocabulary", "training_dataset")),
        ("model", ("ranker", "calibrated_ranker", "attribution", "evaluation")),
        ("release", ("feature_snapshot", "serving_bundle", "champion")),
        ("serving", ("serving_log", "skew_report")),
    ],
)
def test_the_asset_graph_is_complete_and_materialised(
    browser: webdriver.Chrome, servers: Servers, tmp_path: Path, group: str, assets: tuple[str, ...]
) -> None:
    url = f"{servers.url}/locations/__repository__@ctr_pipeline/asset-groups/{group}/lineage"
    text = _text(browser, url, *assets, "filled", folder=tmp_path, name=group)
    filled = [int(share) for share in re.findall(r"(\d+)% filled", text)]
    assert len(filled) == len(assets)
    # Tables have every day, what belongs to a retrain has the last day.
    assert all(
        share == 100 if group in {"ingest", "monitoring", "tables", "serving"} else share > 0 for share in filled
    )


def test_the_evaluation_shows_metrics_plots_and_checks(
    browser: webdriver.Chrome, servers: Servers, tmp_path: Path
) -> None:
    # A small laptop's window.
    browser.set_window_size(1280, 800)
    try:
        _text(
            browser,
            f"{servers.url}/assets/evaluation?view=partitions&partition=2026-01-16",
            "evaluation",
            "95 % interval",
            "auc/click",
            "reliability",
            folder=tmp_path,
            name="evaluation",
        )
        cut = browser.execute_script(CUT_TABLES)
    finally:
        browser.set_window_size(*WINDOW)
    assert cut == []
    _text(
        browser,
        f"{servers.url}/assets/evaluation?view=checks",
        "better_than_base_rate",
        "observed_over_expected",
        folder=tmp_path,
        name="checks",
    )


def test_a_check_leads_to_the_page_of_the_run_in_one_click(
    browser: webdriver.Chrome, servers: Servers, tmp_path: Path
) -> None:
    _text(
        browser,
        f"{servers.url}/assets/evaluation?view=checks&checkDetail=observed_over_expected",
        "observed_over_expected",
        "/training/2026-01-16/report.html#calibration",
        folder=tmp_path,
        name="check",
    )
    [link] = {
        str(found.get_attribute("href"))
        for found in browser.find_elements(By.TAG_NAME, "a")
        if "artifacts/report.html" in str(found.get_attribute("href"))
    }
    # The servers of the tests have other ports than those that the run knew.
    browser.get(f"{servers.mlflow_url}/{link[link.index('#') :]}")
    frame = WebDriverWait(browser, 60).until(lambda driver: driver.find_elements(By.TAG_NAME, "iframe"))[0]
    browser.switch_to.frame(frame)
    try:
        text = browser.find_element(By.TAG_NAME, "body").text
    finally:
        browser.switch_to.default_content()
        browser.save_screenshot(str(tmp_path / "report.png"))
    assert "ads, 2026-01-16: promoted" in text
    assert "Why the model changed" in text


def test_mlflow_shows_the_datasets_the_source_and_the_model_of_the_run(
    browser: webdriver.Chrome, servers: Servers, tmp_path: Path
) -> None:
    training = servers.data_root / "training" / "2026-01-16"
    page = json.loads((training / "run.json").read_text(encoding="utf-8"))["url"].partition("/#/")[2]
    recorded = json.loads((training / "provenance.json").read_text(encoding="utf-8"))
    version = recorded["examples"]["versions"]["impressions"]
    _text(
        browser,
        f"{servers.mlflow_url}/#/{page}",
        "ctr_pipeline daily_retrain",
        "train (",
        "Registered models",
        "Logged models (1)",
        folder=tmp_path,
        name="mlflow",
    )
    browser.find_element(By.XPATH, "//*[text()='+7']").click()
    WebDriverWait(browser, 20).until(
        lambda driver: f"impressions (v{version}-" in driver.find_element(By.TAG_NAME, "body").text
    )


LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
MODEL_STEPS = ("ranker", "calibrated_ranker", "evaluation", "serving_bundle", "champion")


def _retrain(servers: Servers, day: str) -> str:
    """Trains on the packed arrays as they are; the id of the run, which has failed."""
    answer = servers.query(
        LAUNCH,
        p={
            "selector": {
                "repositoryLocationName": "ctr_pipeline",
                "repositoryName": "__repository__",
                "jobName": "daily_retrain",
                "assetSelection": [{"path": [name]} for name in MODEL_STEPS],
            },
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": day}]},
        },
    )["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run_id = str(answer["run"]["runId"])
    assert servers.wait(run_id) == "FAILURE"
    return run_id


def _aliases(servers: Servers) -> list[tuple[str, int]]:
    with sqlite3.connect(servers.data_root / "mlflow.db") as database:
        return list(database.execute("select alias, version from registered_model_aliases order by alias"))


# The last of the file: it trains again, and puts back what was there.
def test_a_training_that_is_stopped_shows_its_diagnosis_alerts_and_promotes_nothing(
    browser: webdriver.Chrome, servers: Servers, tmp_path: Path
) -> None:
    day = "2026-01-16"
    training = servers.data_root / "training" / day
    numbers = servers.data_root / "datasets" / day / "packed" / "train" / "numeric.npy"
    before = _aliases(servers)
    assert before
    shutil.copytree(training, tmp_path / "training")
    shutil.copy2(numbers, tmp_path / "numeric.npy")
    values = np.load(numbers)
    values[: len(values) // 2, 0] = np.inf
    np.save(numbers, values)
    try:
        run_id = _retrain(servers, day)
    finally:
        shutil.rmtree(training)
        shutil.copytree(tmp_path / "training", training)
        shutil.copy2(tmp_path / "numeric.npy", numbers)
    assert _aliases(servers) == before
    [kept] = (servers.data_root / "failed_trainings" / day).iterdir()
    failure = json.loads((kept / "failure.json").read_text(encoding="utf-8"))
    cause = failure["cause"]
    assert (cause["kind"], cause["feature"]) == ("input", "price")
    shown = f"{servers.url}/runs/{run_id}?logs=type%3ASTEP_FAILURE"
    _text(browser, shown, "Training stopped", "View full message", folder=tmp_path, name="failed")
    browser.find_element(By.XPATH, "//*[text()='View full message']").click()
    WebDriverWait(browser, 20).until(lambda driver: driver.find_elements(By.XPATH, "//*[text()='Copy error']"))
    browser.save_screenshot(str(tmp_path / "diagnosis.png"))
    text = browser.find_element(By.TAG_NAME, "body").text
    for expected in (
        cause["message"],
        cause["tensor"],
        "cause_feature",
        "findings",
        "hypotheses",
        failure["triage"]["hypotheses"][0]["cause"],
        failure["triage"]["hypotheses"][0]["fix"],
        f"ctr why {kept}",
        str(kept),
        failure["mlflow"]["url"],
    ):
        assert expected in text
    assert all(finding["message"] in text for finding in failure["findings"])
    assert browser.execute_script(CUT_TABLES) == []

    def alerted(_: webdriver.Chrome) -> list[dict[str, object]]:
        path = servers.data_root / "notifications.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [
            alert for alert in map(json.loads, lines) if alert["run_id"] == run_id and alert["kind"] == "run_failure"
        ]

    [alert] = WebDriverWait(browser, 90).until(alerted)
    assert cause["message"] in str(alert["message"])
    assert str(kept) in str(alert["message"])
