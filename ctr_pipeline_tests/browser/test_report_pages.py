"""The page of a run on a phone, on a laptop and on paper."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from selenium import webdriver

from ctr_pipeline.evaluation.report_page import report_page
from ctr_pipeline_tests.browser.test_pages import browser
from ctr_pipeline_tests.evaluation.test_report_page import FILES, FULL, SECTIONS, SLICES

__all__ = ["browser"]

LONG = "a_task_whose_name_is_as_long_as_names_of_tasks_may_be_at_the_most"
CUT = """
const width = document.documentElement.clientWidth;
return [...document.body.querySelectorAll('*')].filter(box => {
  const inside = box.closest('.scroll');
  if (inside && inside !== box) return false;
  if (box.offsetParent === null) return false;
  const place = box.getBoundingClientRect();
  return place.right > width + 1 || place.left < -1 || (!box.matches('.scroll') && box.scrollWidth > box.clientWidth + 1
    && box.clientWidth > 0 && getComputedStyle(box).overflowX !== 'visible');
}).map(box => box.tagName + ' ' + box.className + ' ' + box.textContent.slice(0, 40));
"""
"""What reaches beyond the window, but tables, which scroll by themselves."""


@pytest.fixture
def page(tmp_path: Path) -> str:
    report = FULL | {
        "metrics": {LONG: FULL["metrics"]["click"], **FULL["metrics"]},
        "slices": {"click": [one | {"value": "v" * 90} for one in SLICES]},
        "model": FULL["model"] | {"folder": "/data/" + "training" * 20, "reasons": ["x" * 300]},
    }
    file = tmp_path / "report.html"
    file.write_text(
        report_page(report, replace(FILES, images={"scores_click": FILES.images["scores_click"]})), encoding="utf-8"
    )
    return file.as_uri()


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_fits_the_window_and_reports_no_error(
    browser: webdriver.Chrome, page: str, tmp_path: Path, width: int
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 2, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get_log("browser")
        browser.get(page)
        browser.execute_script("document.querySelectorAll('details').forEach(box => box.open = true)")
        whole = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (tmp_path / f"report_{width}.png").write_bytes(base64.b64decode(whole["data"]))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script(CUT) == []
        images = browser.execute_script("return [...document.images].map(of => [of.naturalWidth, of.width])")
        # Sharp where a screen has two dots a pixel, and large enough that its text can be read.
        assert len(images) == 8
        assert all(natural >= 1.35 * shown and shown >= 270 for natural, shown in images)
        assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_on_paper_what_is_folded_is_open(browser: webdriver.Chrome, page: str, tmp_path: Path) -> None:
    browser.get(page)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        hidden = browser.execute_script(
            "return [...document.querySelectorAll('details table')].filter(of => of.getBoundingClientRect().height < 20).length"
        )
        assert hidden == 0
        assert not browser.find_element("tag name", "nav").is_displayed()
        sections = [of.get_attribute("id") for of in browser.find_elements("tag name", "section") if of.is_displayed()]
        assert sections == SECTIONS
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = browser.execute_cdp_cmd(
        "Page.printToPDF", {"printBackground": True, "paperWidth": 8.27, "paperHeight": 11.69}
    )
    (tmp_path / "report.pdf").write_bytes(base64.b64decode(printed["data"]))
