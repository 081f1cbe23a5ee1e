"""A calibrator from outside: one class and one registration, named in a spec, fitted, exported, scored, read back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor, nn

from ctr_pipeline.calibration import fit_calibrators, register_calibrator
from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.bundle import write_manifest
from ctr_pipeline.serving.export import check_parity, reference_scores
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.serving.shop import SPEC, Shop


class SoftLimits(nn.Module):
    def __init__(self, limits: Sequence[float], shifts: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("shifts", torch.tensor(shifts))
        self.limit = nn.ParameterDict({"of_tasks": nn.Parameter(torch.tensor(limits))})

    def forward(self, logits: Tensor) -> Tensor:
        limits = self.limit["of_tasks"]
        return limits * torch.tanh(logits / limits) + self.shifts


@dataclass(frozen=True)
class SoftLimit:
    """Logits that stay within ``limit`` of ``shift``, which is the logit of the base rate: rising, but not linear."""

    limit: float
    shift: float
    rows: int
    positives: int
    reason: str | None = None

    @classmethod
    def fit(cls, logits: np.ndarray, labels: np.ndarray) -> "SoftLimit":  # noqa: ARG003
        rows, positives = int((labels >= 0).sum()), int((labels == 1).sum())
        return cls(6.0, float(special.logit((positives + 1) / (rows + 2))), rows, positives)

    def apply(self, logits: np.ndarray) -> np.ndarray:
        return self.limit * np.tanh(np.asarray(logits, dtype=np.float64) / self.limit) + self.shift

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "SoftLimit":
        return cls(**content)

    @classmethod
    def module(cls, fitted: Sequence["SoftLimit"]) -> nn.Module:
        return SoftLimits([c.limit for c in fitted], [c.shift for c in fitted])


class OtherInTheGraph(SoftLimit):
    @classmethod
    def module(cls, fitted: Sequence[SoftLimit]) -> nn.Module:
        return SoftLimits([c.limit for c in fitted], [c.shift + 1e-3 for c in fitted])


register_calibrator("soft_limit", SoftLimit)


@pytest.fixture(scope="module")
def soft(shop: Shop) -> Shop:
    """The shop with calibrators of the kind that its spec names, fitted on random labels."""
    spec = parse_spec(f"{SPEC}calibration: {{kind: soft_limit}}\n", "test")
    numeric, ids = shop.rows(500)
    logits = reference_scores(shop.ranker, shop.calibrators, shop.layout, numeric, ids).logits
    labels = (np.random.default_rng(0).random(logits.shape) < 0.2).astype(np.int8)
    return replace(shop, spec=spec, calibrators=fit_calibrators(spec.calibration, shop.layout.tasks, logits, labels))


@pytest.fixture(scope="module")
def exported(soft: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return soft.export(tmp_path_factory.mktemp("soft") / "bundle")


def test_the_graph_applies_it(soft: Shop, exported: Bundle) -> None:
    parity = check_parity(exported, soft.ranker, soft.calibrators, *soft.rows(300))
    assert parity.passed, parity
    found = exported.score(*soft.rows(200))
    assert np.abs(found.logits).max() > 6, "logits below the limit would prove little"
    for column, task in enumerate(soft.layout.tasks):
        expected = special.expit(soft.calibrators[task].apply(found.logits[:, column]))
        assert found.probabilities[:, column] == pytest.approx(expected, abs=1e-6)


def test_the_bundle_knows_its_calibrators(soft: Shop, exported: Bundle) -> None:
    assert exported.calibrators() == soft.calibrators
    assert "kind: soft_limit" in (exported.directory / "spec.yaml").read_text()
    content = json.loads((exported.directory / "calibration.json").read_text())
    assert {(of["kind"], of["package"]) for of in content.values()} == {("soft_limit", __name__.partition(".")[0])}


def test_without_its_package_a_bundle_scores_and_says_what_to_install(
    soft: Shop, exported: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in exported.directory.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "calibration.json").read_text())
    for fields in content.values():
        fields |= {"kind": "softer_limit", "package": "other_calibrators"}
    (folder / "calibration.json").write_text(json.dumps(content))
    write_manifest(folder, soft.spec.name, soft.layout.tasks)
    opened = Bundle.open(folder)
    assert np.array_equal(opened.score(*soft.rows(20)).logits, exported.score(*soft.rows(20)).logits)
    with pytest.raises(BundleError, match=r"calibration\.json: no calibrator is registered under kind 'softer_limit'"):
        opened.calibrators()
    with pytest.raises(BundleError, match=r"Install the package that it comes from here too: other_calibrators\."):
        opened.calibrators()


def test_a_bundle_of_before_there_were_kinds_has_platt(shop: Shop, bundle: Bundle) -> None:
    content = json.loads((bundle.directory / "calibration.json").read_text())
    assert all(set(fields) == {"a", "b", "rows", "positives", "reason"} for fields in content.values())
    assert bundle.calibrators() == shop.calibrators


def test_a_graph_that_calibrates_otherwise_than_the_evaluation_is_refused(soft: Shop, tmp_path: Path) -> None:
    others = {task: OtherInTheGraph(**asdict(found)) for task, found in soft.calibrators.items()}
    with pytest.raises(BundleError, match=r"task 'click' \(OtherInTheGraph\) .* between `apply` and `module`"):
        replace(soft, calibrators=others).export(tmp_path / "bundle")
