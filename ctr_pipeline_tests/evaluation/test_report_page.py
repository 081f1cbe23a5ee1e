"""The page of a run: whole, in the order in which a person asks, and of reports of every kind."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.evaluation import evaluate, slice_metrics
from ctr_pipeline.evaluation.plots import score_histogram
from ctr_pipeline.evaluation.report_cells import interval
from ctr_pipeline.evaluation.report_figures import ReportFiles
from ctr_pipeline.evaluation.report_page import report_page
from ctr_pipeline.labels.outcome_delays import OutcomeDelays
from ctr_pipeline_tests.commands.test_report import NEW
from ctr_pipeline_tests.evaluation.test_html_page import HOSTILE, Structure, read

DAYS = ("2026-03-07", "2026-03-08")
SECTIONS = [
    "outcome", "change", "metrics", "calibration", "ranking", "days", "slices", "data", "propensity", "checks", "provenance",
]  # fmt: skip


def measured(seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    z = rng.normal(-2, 1, 600)
    y = (rng.random(len(z)) < special.expit(z)).astype(np.int8)
    return z, y, evaluate(z, y, rng.integers(0, 200, len(z)), seed=1, replicates=20).to_json()


Z, Y, CLICK = measured(0)
ORDER = measured(1)[2]
INTERVAL = {"value": 0.01, "low": -0.01, "high": 0.02}
SLICES = [one.to_json() for one in slice_metrics(Z, Y, {"device": np.where(Z > -2, "phone", "desk")})]
SLICES[0] |= {"miscalibrated": True}
FULL: dict[str, Any] = NEW | {
    "outcome": {"status": "not_promoted", "step": None, "reason": None},
    "as_of": "2026-03-10T00:00:00+00:00",
    "spec": {"name": "shop", "hash": "0123"},
    "tables": {"labels": {"version": 4}},
    "rows": {
        "impressions": {
            "in": 9, "kept": 7, "quarantined": 2, "filtered": 0, "added": 0, "ignored": 0, "reasons": {"no time": 2},
        }
    },
    "ignored_types": {"view": 3, "": 1},
    "remarks": ["One file was not read."],
    "metrics": {task: {"test": of, "validation": of} for task, of in (("click", CLICK), ("order", ORDER))},
    "test_otherwise": {"random_traffic": {"click": CLICK, "order": ORDER}},
    "floor": {"position": {"click": {"absolute": {"value": -0.1, "low": -0.2, "high": -0.05}}, "order": None}},
    "test_references": {
        name: {"click": ORDER} for name in ("base_rate", "position_only", "champion")
    },
    "test_by_day": {
        "click": [
            CLICK | {"day": DAYS[0], "ne_against_champion": {"relative": INTERVAL, "absolute": INTERVAL}},
            ORDER | {"day": DAYS[1], "ne_against_champion": None},
        ],
    },
    "slices_found": {
        "click": {
            "searched": 1200, "proposed": 3,
            "found": [
                {
                    "conditions": [{"feature": "geo", "value": "north"}, {"feature": "device", "value": "tv"}], "rows": 70,
                    "positives": 9, "oe": {"value": 1.8, "low": 1.2, "high": 2.4}, "relative": 1.79, "p_value": 1e-4,
                    "ne_against_champion": {"relative": INTERVAL},
                }
            ],
        },
        "order": {"searched": 1200, "proposed": 0, "found": []},
    },
    "ranking_revenue": {
        "all": {"key": "session", "groups": 90, "left_out": 2, "model": INTERVAL, "expected": INTERVAL, "logged": INTERVAL,
                "random": INTERVAL, "oracle": INTERVAL, "gain": {"value": 12.5, "low": 3.0, "high": 20.0}, "regret": INTERVAL},
    },
    "champion": {"version": "1", "compared": True, "obstacle": None},
    "slices": {"click": SLICES, "order": []},
    "position_effect": {"kind": "additive", "shares": [0.5, 0.5], "relative": {"click": [1.0, 0.6]}},
    "propensity": {
        "positions": [
            {
                "response": "click", "position": at, "random_rows": 50, "random_positives": 5, "weight": 1.0,
                "examination": 1 / at, "examination_low": 0.4 / at, "examination_high": 1.5 / at,
                "exposure_ratio": 1.0, "exposure_low": 0.8, "exposure_high": 1.3,
            }
            for at in (1, 2)
        ],
        "responses": [
            {"response": "click", "usable": True, "reason": "", "ess_rows": 0.9, "ess_positives": 0.8},
            {"response": "order", "usable": False, "reason": "too few outcomes", "ess_rows": 0.0, "ess_positives": 0.0},
        ],
    },
    "checks": [
        {"asset": "evaluation", "check": "better_than_position", "passed": True, "severity": "ERROR", "description": None},
        {
            "asset": "champion", "check": "promotion", "passed": False, "severity": "WARN",
            "description": "click: NE +3.00% (95 % interval +1.00% to +5.00%): may be more than 1.00% worse.",
        },
    ],
    "model": {
        "version": "2", "promoted": False, "reasons": ["click: NE +3.00%: may be more than 1.00% worse."],
        "folder": "/data/training/2026-03-09", "sha256": "ab" * 32,
        "training": {"status": "finished", "steps": 90, "seconds": 3.2, "device": "cpu"},
    },
    "mlflow": {"run_id": "abc", "url": "http://127.0.0.1:5000/#/experiments/1/runs/abc"},
    "seconds": {"ranker": 3.2},
}  # fmt: skip
FILES = ReportFiles(
    images={"scores_click": score_histogram(Z, Y, title="Scores"), "gain": b"\x89PNG"},
    delays={"click": OutcomeDelays(start="impression", window=3600.0, counts=(1, 3, 2), outside=1)},
    provenance={"seed": 7, "key_fingerprint": "cafe", "environment": {"python": "3.11"}, "arrays": {"test/ts.npy": "f" * 64}},
    release={
        "champion_before": "1", "bundle_sha256": "cd" * 32,
        "differences": {
            "click": {"relative_ne": INTERVAL, "auc": INTERVAL, "ap": INTERVAL, "rows": 600, "positives": 90, "clusters": 200},
        },
        "gates": [
            {"name": "normalised_entropy", "status": "failed", "reasons": ["click is worse."], "figures": {}},
            {"name": "random_traffic", "status": "undecided", "reasons": ["click: too few.", "order: too few."], "figures": {}},
        ],
    },
    attribution={
        "headline": "The change comes from price", "compared_with": "the champion in service",
        "causes": [{"sentence": "price is × 100", "certainty": "shown", "share": {"value": 0.9, "low": 0.8, "high": 1.0}, "how": "put back"}],
    },
    attribution_page="../training/2026-03-09/attribution.html",
)  # fmt: skip


def sections(page: Structure) -> list[str]:
    return [str(of["id"]) for tag, of in page.elements if tag == "section"]


@pytest.fixture(scope="module")
def page() -> Structure:
    return read(report_page(FULL, FILES))


def test_the_page_answers_in_the_order_in_which_a_person_asks(page: Structure) -> None:
    assert sections(page) == SECTIONS
    assert [of["href"] for tag, of in page.elements if tag == "a" and str(of["href"]).startswith("#")][:11] == [
        f"#{name}" for name in SECTIONS
    ]
    text = " ".join(page.text)
    for expected in (
        "not promoted, the champion stays",
        "Version 2 does not replace the champion. click: NE +3.00%: may be more than 1.00% worse.",
        "+1.00% [-1.00%, +2.00%]",
        "The change comes from price",
        "price is × 100 (shown: put back; share of the change 0.900 [0.800, 1.000])",
        "Compared with the champion in service.",
        "1 of 2 checks passed.",
        "impressions: 2 rows in quarantine, no time",
        "order: not used, too few outcomes",
        "One file was not read.",
        "1 of 2 slices stand out",
        "random traffic",
        "click is worse.",
        "geo: north and device: tv",
        "click 1,200 searched, 3 proposed; order 1,200 searched, 0 proposed.",
        "12.50 [3.00, 20.00]",
        "+0.0100 [-0.0100, +0.0200]",
        "cd" * 32,
        f"{CLICK['auc']['value']:.3f} [{CLICK['auc']['low']:.3f}, {CLICK['auc']['high']:.3f}]",
    ):
        assert expected in text, expected
    links = {str(of["href"]) for tag, of in page.elements if tag == "a"}
    assert {FILES.attribution_page, FULL["mlflow"]["url"]} <= links
    # Headings do not skip a level, and there is one of the first.
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_each_picture_has_a_text_with_its_figures(page: Structure) -> None:
    texts = [str(of["alt"]) for tag, of in page.elements if tag == "img"]
    # Champion by day, reliability, gain, scores, NE and O/E by day, slices of one task, delays, positions.
    assert len(texts) == 9
    assert all(any(letter.isdigit() for letter in text) for text in texts)
    assert any(text.startswith("Observed rate against predicted probability") for text in texts)
    assert any("click better on 0 of 1 days" in text for text in texts)
    assert "order: the test rows were not divided into slices." in page.text


def cells(page: str, title: str) -> list[str]:
    """The other cells of the first row that begins with ``title``."""
    row = page[page.index(f"<td>{title}</td>") :]
    return re.findall(r'<td class="number">(.*?)</td>', row[: row.index("</tr>")])


def test_other_models_stand_beside_the_model() -> None:
    own = interval(CLICK["ne"])
    assert cells(report_page(FULL, ReportFiles()), "NE") == [own, *[f"{ORDER['ne']['value']:.3f}"] * 3]
    # In reports of before these were measured, what follows from the figures of the model itself.
    old = FULL | {"test_references": {}, "test_by_day": {}, "slices": {}, "propensity": {}}
    page = report_page(old, ReportFiles())
    rate = CLICK["base_rate"]
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    for title, value in (("AUC", 0.5), ("Average precision", rate), ("Log loss (nats)", entropy)):
        assert cells(page, title)[1:] == [f"{value:.3f}", "–"]
    assert cells(page, "NE") == [own, "1.000", f"{CLICK['ne']['value'] + 0.1:.3f}"]
    assert "the files of this model are gone" in page


def test_why_nothing_was_compared_is_told() -> None:
    first = {"compared_with": "nothing", "reason": "This is the first retrain."}
    text = read(report_page(NEW, ReportFiles(attribution=first))).text
    assert "This is the first retrain." in text


def test_metrics_of_earlier_versions_are_shown() -> None:
    """`user_auc` was a number, a group metric had no counts, and there were no parts of the log loss."""
    absent = ("log_loss_parts", "best_f1", "undefined", "bins", "recall_at", "lift")
    old = {key: value for key, value in CLICK.items() if key not in absent}
    old |= {"user_auc": 0.625, "grouped_auc": {"value": 0.75, "low": 0.7, "high": 0.8}}
    page = report_page(NEW | {"metrics": {"click": {"test": old}}}, ReportFiles())
    read(page)
    assert cells(page, "AUC within users")[0] == "0.625"
    assert cells(page, "AUC within groups")[0] == "0.750 [0.700, 0.800]"


def test_old_reports_and_those_of_failures_are_pages_too() -> None:
    old = {key: value for key, value in NEW.items() if key != "outcome"}
    assert sections(read(report_page(old, ReportFiles()))) == ["data", "provenance"]
    failure = {
        "reason": "loss is not finite", "cause": {"kind": "input", "tensor": "numeric", "feature": "price", "step": 3},
        "findings": [{"name": "inputs", "severity": "error", "message": "price is inf"}], "evidence": "/data/failed",
    }  # fmt: skip
    failed = {
        "format": 2, "spec": {"name": "shop"}, "days": {"first": "2026-03-09", "last": "2026-03-09"},
        "outcome": {"status": "failed", "step": "ranker", "reason": failure["reason"]}, "training_failure": failure,
        "rows": {}, "labels": {}, "split": {}, "propensity": {}, "label_quality": {}, "metrics": {}, "floor": {}, "seconds": {},
        "tables": {}, "checks": [], "mlflow": {"run_id": "a"},
        "model": {"version": None, "promoted": False, "reasons": [failure["reason"]], "folder": "/data/failed"},
    }  # fmt: skip
    page = read(report_page(failed, ReportFiles()))
    text = " ".join(page.text)
    assert "The step ranker ended the run. loss is not finite" in text
    assert "error inputs: price is inf" in text
    assert sections(page) == ["outcome", "provenance"]


def test_a_test_without_an_outcome_has_sentences_in_place_of_pictures() -> None:
    nothing = evaluate(Z, np.zeros(len(Z), dtype=np.int8), seed=1).to_json()
    report = FULL | {
        "metrics": {"click": {"test": nothing}},
        "test_by_day": {"click": [nothing | {"day": DAYS[0]}]},
        "test_otherwise": {},
    }
    page = read(report_page(report, replace(FILES, images={}, delays={}, release={}, attribution={})))
    text = " ".join(page.text)
    assert "no test row has an outcome" in text
    assert "no day has labels of both classes" in text
    assert "Not given: " in text


def hostile(content: Any, kept: frozenset[str]) -> Any:
    """The same with code in each text and each name of a task."""
    if isinstance(content, Mapping):
        return {
            f"{key}{HOSTILE}" if key in ("click", "order") else key: value if key in kept else hostile(value, kept)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [hostile(one, kept) for one in content]
    return f"{content}{HOSTILE}" if isinstance(content, str) else content


def test_all_text_of_a_report_is_escaped() -> None:
    report = json.loads(json.dumps(FULL))
    files = replace(
        FILES, provenance=hostile(FILES.provenance, frozenset()), attribution=hostile(FILES.attribution, frozenset()),
        delays={HOSTILE: FILES.delays["click"]},
    )  # fmt: skip
    for status in ("promoted", "failed"):
        changed = hostile(report, frozenset({"outcome"})) | {
            "outcome": {"status": status, "step": HOSTILE, "reason": HOSTILE}
        }
        page = read(report_page(changed, files))
        assert sections(page) == SECTIONS
        assert "<script>" not in "".join(str(of) for tag, of in page.elements if tag == "style")


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,<p>"])
def test_the_link_to_mlflow_runs_nothing(url: str) -> None:
    page = read(report_page(NEW | {"mlflow": {"run_id": "abc", "url": url}}, ReportFiles()))
    assert url not in {of.get("href") for tag, of in page.elements if tag == "a"}
