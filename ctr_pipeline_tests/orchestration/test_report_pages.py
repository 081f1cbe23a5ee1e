"""Where the page of a retrain takes its files from, and the ways to it."""

import json
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from ctr_pipeline.cli.app import app
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.deployment.retrain_files import TrackedRun
from ctr_pipeline.orchestration.report_pages import (
    artifact_url,
    page_link,
    page_metadata,
    refresh_page,
    report_files,
    with_page,
    write_page,
)
from ctr_pipeline_tests.commands.test_report import NEW, of_format_1
from ctr_pipeline_tests.evaluation.test_html_page import read

RUN = TrackedRun(
    run_id="abc", tracking_uri="sqlite:///x",
    url="http://127.0.0.1:5000/#/experiments/1/runs/abc?workflowType=machine_learning",
)  # fmt: skip
HIDDEN = TrackedRun(run_id="abc", tracking_uri="sqlite:///x", url="")


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    """A data root with the folder of one retrain and its report."""
    root = DataRoot(tmp_path / "data")
    paths = root.retrain("2026-03-09")
    paths.plots.mkdir(parents=True)
    root.reports.mkdir()
    (paths.plots / "gain.png").write_bytes(b"png")
    for path, content in (
        (paths.result, {"model_sha256": "ab"}),
        (paths.release, {"version": "1", "bundle_sha256": "cd", "champion_before": None, "differences": {}}),
        (paths.delays, {"buy": {"start": "impression", "window": 60.0, "counts": [1], "outside": 0}}),
        (paths.attribution, {"headline": "The change comes from price", "causes": []}),
        (root.reports / "2026-03-09.json", NEW | {"model": model(root)}),
    ):
        path.write_text(json.dumps(content), encoding="utf-8")
    paths.attribution_page.write_text("why", encoding="utf-8")
    return root


def model(root: DataRoot, **changed: object) -> dict[str, object]:
    return NEW["model"] | {"sha256": "ab", "folder": str(root.retrain("2026-03-09").training)} | changed


def test_the_files_are_those_of_the_reports_model(root: DataRoot) -> None:
    page = root.reports / "2026-03-09.html"
    found = report_files(NEW | {"model": model(root)}, page)
    assert found.images == {"gain": b"png"}
    assert found.delays["buy"].outcomes == 1
    assert found.release["bundle_sha256"] == "cd"
    assert found.attribution_page == "../training/2026-03-09/attribution.html"
    assert (
        report_files(NEW | {"model": model(root)}, root.retrain("2026-03-09").page).attribution_page
        == "attribution.html"
    )
    # A release of another version says nothing of this one.
    assert report_files(NEW | {"model": model(root, version="2")}, page).release == {}
    for other in (model(root, sha256="ef"), model(root, sha256=None), model(root, folder="/gone")):
        of_other = report_files(NEW | {"model": other}, page)
        assert (of_other.images, of_other.delays, of_other.attribution) == ({}, {}, {})


def test_the_command_writes_the_page(root: DataRoot, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "report.html"
    done = CliRunner().invoke(app, ["report", "latest", "--data-root", str(root.root), "--json", "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["days"] == NEW["days"]
    text = page.read_text(encoding="utf-8")
    assert "shop, 2026-03-09: " in " ".join(read(text).text)
    assert "The change comes from price" in text
    assert "../data/training/2026-03-09/attribution.html" in text


def test_a_report_of_format_1_is_a_page_too(root: DataRoot, tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps(of_format_1()), encoding="utf-8")
    page = tmp_path / "old.html"
    assert (
        CliRunner().invoke(app, ["report", str(file), "--data-root", str(root.root), "--html", str(page)]).exit_code
        == 0
    )
    assert "of this part" not in page.read_text(encoding="utf-8")
    assert "buy" in " ".join(read(page.read_text(encoding="utf-8")).text)


def test_a_page_that_cannot_be_written_is_named(root: DataRoot) -> None:
    # Below a file, and in place of a folder.
    for page in (root.reports / "2026-03-09.json" / "page.html", root.reports):
        done = CliRunner().invoke(app, ["report", "latest", "--data-root", str(root.root), "--html", str(page)])
        assert done.exit_code == 2
        assert "the file cannot be written" in " ".join(done.output.split())


def test_each_check_has_the_way_to_the_section_that_shows_more(root: DataRoot) -> None:
    paths = root.retrain("2026-03-09")
    results = [
        dg.AssetCheckResult(asset_key="evaluation", check_name=name, passed=False, metadata={"oe": 0.5})
        for name in ("observed_over_expected", "added_later")
    ]
    oe, other = with_page("evaluation", results, paths, RUN)
    assert oe.metadata["oe"] == dg.MetadataValue.float(0.5)
    assert oe.metadata["report_file"] == dg.MetadataValue.path(f"{paths.page}#calibration")
    assert other.metadata["report_file"] == dg.MetadataValue.path(f"{paths.page}#metrics")
    assert oe.metadata["report"] == dg.MetadataValue.url(
        "http://127.0.0.1:5000/#/experiments/1/runs/abc/artifacts/report.html?workflowType=machine_learning"
    )
    assert (oe.check_name, oe.passed, oe.asset_key) == ("observed_over_expected", False, dg.AssetKey("evaluation"))
    assert page_link(paths, RUN) == {"report": dg.MetadataValue.md(f"[open the report]({oe.metadata['report'].value})")}
    # Where MLflow's page is not known there is no link.
    assert page_link(paths, HIDDEN) == {"report": dg.MetadataValue.path(str(paths.page))}
    assert set(page_metadata(paths, HIDDEN)) == {"report_file"}
    assert artifact_url(TrackedRun(run_id="a", tracking_uri="", url="http://x/#/runs/a"), "a b.html").endswith(
        "/a%20b.html"
    )


class Kept:
    """MLflow, which keeps the text of the page that it is given."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def log(self, run_id: str, metrics: object, artifacts: list[tuple[str, Path]]) -> None:
        assert (run_id, metrics) == ("abc", {})
        self.pages += [path.read_text(encoding="utf-8") for _, path in artifacts]


def test_causes_that_are_found_later_come_onto_the_page(root: DataRoot) -> None:
    paths, kept = root.retrain("2026-03-09"), Kept()
    paths.mlflow_run.write_text(json.dumps({"run_id": "abc", "tracking_uri": "", "url": ""}), encoding="utf-8")
    # Before the evaluation there is no page.
    refresh_page(kept, paths)  # type: ignore[arg-type]
    assert not paths.page.exists()
    paths.report.write_text(json.dumps(NEW | {"model": model(root)}), encoding="utf-8")
    for headline in ("The change comes from price", "It is noise"):
        paths.attribution.write_text(json.dumps({"headline": headline, "causes": []}), encoding="utf-8")
        refresh_page(kept, paths)  # type: ignore[arg-type]
        assert headline in kept.pages[-1]
        assert 'href="attribution.html"' in kept.pages[-1]


def test_a_page_replaces_the_one_before(root: DataRoot) -> None:
    page = root.reports / "2026-03-09.html"
    for status, words in (("evaluated", "not released yet"), ("refused", "must not be served")):
        write_page(NEW | {"outcome": {"status": status, "step": "evaluation", "reason": "why"}}, page)
        assert words in page.read_text(encoding="utf-8")
