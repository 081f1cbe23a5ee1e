"""A loss, a calibrator, a detector, a check and an interaction of an installed package, through a whole run."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import CTR, Finished, environment

PARTS = '''
"""Five parts, each one class and one registration."""

import torch

from ctr_pipeline.calibration import register_calibrator
from ctr_pipeline.gradients import Finding, register_detector
from ctr_pipeline.losses import register_loss
from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register
from ctr_pipeline.ranker.interactions import register_interaction


class DoubledCrossEntropy:
    """Twice the cross-entropy."""

    def task_sums(self, logits, labels, weights):
        each = 2 * weights * (torch.nn.functional.softplus(logits) - labels.clamp_min(0) * logits)
        return each.where(labels >= 0, each.new_zeros(())).sum(dim=0)

    def logit_gradient(self, logits, labels, weights):
        each = 2 * weights * (logits.sigmoid() - labels.clamp_min(0))
        return each.where(labels >= 0, each.new_zeros(()))


register_loss("doubled", DoubledCrossEntropy)


class Shift:
    """Calibrated logit = logit + offset, the offset being that of the mean rate."""

    def __init__(self, offset, rows, positives):
        self.offset, self.rows, self.positives, self.reason = offset, rows, positives, None

    @classmethod
    def fit(cls, logits, labels):
        import numpy as np
        from scipy.optimize import brentq
        from scipy.special import expit

        own, hits = logits[labels >= 0].astype(float), int((labels == 1).sum())
        return cls(brentq(lambda b: expit(own + b).sum() - hits, -30, 30), int((labels >= 0).sum()), hits)

    def apply(self, logits):
        return logits.astype(float) + self.offset

    def to_json(self):
        return {"offset": self.offset, "rows": self.rows, "positives": self.positives, "reason": None}

    @classmethod
    def from_json(cls, content):
        return cls(content["offset"], content["rows"], content["positives"])

    @classmethod
    def module(cls, fitted):
        class Offsets(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("offsets", torch.tensor([found.offset for found in fitted], dtype=torch.float32))

            def forward(self, logits):
                return logits + self.offsets

        return Offsets()


register_calibrator("shift", Shift)


class LongestStep:
    """Counts the steps: a run should have some."""

    name, question, blocking = "enough_steps", "The run has at least three steps.", True

    def __init__(self):
        self.steps = 0

    def begin(self, start):
        pass

    def observe(self, step):
        self.steps += 1

    def finding(self):
        return Finding("ok" if self.steps >= 3 else "error", f"{self.steps} steps")

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


register_detector(LongestStep)

register(
    CheckDefinition(
        asset="evaluation",
        name="sure_of_auc",
        question="The AUC of the clicks is above one half beyond doubt.",
        evaluate=lambda evidence: Outcome(
            passed=evidence.metrics["click"]["test"]["auc"]["low"] > 0.5, description="AUC was looked at"
        ),
    )
)


class Products(torch.nn.Module):
    """Products of neighbouring numbers."""

    out_width = 2

    def __init__(self, shape):
        super().__init__()

    def forward(self, numbers, fields):
        return torch.stack([numbers[:, 0] * numbers[:, 1], numbers[:, 1] * numbers[:, 2]], dim=1)


register_interaction("products", Products)
'''

OPEN_BUNDLE = """
import json, sys
from pathlib import Path
from ctr_pipeline.serving import Bundle
from ctr_pipeline.spec.extensions import load_extensions
load_extensions()
bundle = Bundle.open(Path(sys.argv[1]))
golden = json.loads((bundle.directory / "golden.json").read_text())
print(bundle.tasks, len(golden["ids"]))
"""


@dataclass(frozen=True)
class Extended:
    """A run of a spec that uses every part of the package."""

    data_root: Path
    spec: Path
    report: dict[str, Any]
    variables: dict[str, str]


@pytest.fixture(scope="module")
def extended(finished: Finished, config_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Extended:
    folder = tmp_path_factory.mktemp("extended")
    packages = folder / "packages"
    (packages / "shop_parts-1.0.dist-info").mkdir(parents=True)
    (packages / "shop_parts.py").write_text(PARTS, encoding="utf-8")
    (packages / "shop_parts-1.0.dist-info" / "METADATA").write_text("Name: shop-parts\nVersion: 1.0\n")
    entry = "[ctr_pipeline.extensions]\nparts = shop_parts\n"
    (packages / "shop_parts-1.0.dist-info" / "entry_points.txt").write_text(entry)
    content = yaml.safe_load(finished.spec.read_text(encoding="utf-8"))
    for task in content["tasks"]:
        task["objective"] = {"kind": "binary", "loss": {"kind": "doubled"}}
    content["calibration"] = {"kind": "shift", "offsets_by": "advertiser_id"}
    content["model"]["interactions"] = [{"kind": "products"}]
    spec, out = folder / "extended.yaml", folder / "report.json"
    spec.write_text(yaml.safe_dump(content), encoding="utf-8")
    data_root = copy_root(finished.data_root, folder / "run")
    path = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))
    variables = environment(config_home, {"PYTHONPATH": path, "COLUMNS": "180"})
    command = [str(CTR), "run", "--spec", str(spec), "--data-root", str(data_root), "--json", str(out)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return Extended(data_root, spec, json.loads(out.read_text(encoding="utf-8")), variables)


@pytest.mark.nightly
def test_the_report_has_the_checks_of_detector_and_definition(extended: Extended) -> None:
    checks = {(check["asset"], check["check"]): check for check in extended.report["checks"]}
    assert checks["ranker", "enough_steps"]["passed"]
    assert "steps" in checks["ranker", "enough_steps"]["description"]
    assert checks["evaluation", "sure_of_auc"]["description"] == "AUC was looked at"
    # The gradient of the loss is compared with the loss's own formula.
    gradient = [check for (asset, name), check in checks.items() if asset == "ranker" and "gradient" in name]
    assert gradient
    assert all(check["passed"] for check in gradient)
    assert checks["serving_bundle", "export_parity"]["passed"]


@pytest.mark.nightly
def test_the_model_has_the_parts_and_was_promoted_by_comparison(extended: Extended, finished: Finished) -> None:
    [training] = (extended.data_root / "training").iterdir()
    job = json.loads((training / "job.json").read_text(encoding="utf-8"))
    assert {objective["loss"]["kind"] for objective in job["objectives"].values()} == {"doubled"}
    assert job["model"]["interactions"] == [{"kind": "products"}]
    calibration = json.loads((training / "calibration.json").read_text(encoding="utf-8"))
    assert {(found["curve"]["kind"], found["feature"]) for found in calibration.values()} == {
        ("shift", "advertiser_id")
    }
    assert extended.report["model"]["sha256"] != finished.report["model"]["sha256"]
    assert extended.report["metrics"]["click"]["test"]["auc"]["value"] > 0.5


@pytest.mark.nightly
def test_the_bundle_opens_where_the_package_is_and_names_it_where_it_is_not(extended: Extended) -> None:
    [bundle] = extended.data_root.glob("training/*/bundle")
    with_parts = subprocess.run(
        [sys.executable, "-c", OPEN_BUNDLE, str(bundle)], env=extended.variables, capture_output=True, text=True
    )
    assert with_parts.returncode == 0, with_parts.stderr
    without = {key: value for key, value in extended.variables.items() if key != "PYTHONPATH"}
    if "PYTHONPATH" in os.environ:
        without["PYTHONPATH"] = os.environ["PYTHONPATH"]
    command = [str(CTR), "run", "--spec", str(extended.spec), "--data-root", str(extended.data_root)]
    refused = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "'isotonic', 'platt'; found 'shift'" in " ".join(refused.stderr.split())


@pytest.mark.nightly
def test_an_edited_extension_trains_again(extended: Extended, tmp_path: Path) -> None:
    command = [str(CTR), "run", "--spec", str(extended.spec), "--data-root", str(extended.data_root)]
    same = subprocess.run(command, env=extended.variables, capture_output=True, text=True, check=True)
    assert "Everything was up to date." in same.stdout
    packages = Path(extended.variables["PYTHONPATH"].split(os.pathsep)[0])
    with (packages / "shop_parts.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    # That it starts is enough; a test of its own trains with an extension.
    again = subprocess.Popen(command, env=extended.variables, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert again.stderr is not None
        assert any(re.search(r"  ranker +started", line) for line in again.stderr)
    finally:
        os.killpg(again.pid, signal.SIGKILL)
        again.wait()
