"""Calibrators by kind: registration, fit of all tasks, JSON."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field
from torch import nn

from ctr_pipeline.calibration import (
    CalibrationError,
    PlattCalibrator,
    ScoreError,
    calibrator_from_json,
    calibrator_to_json,
    fit_calibrators,
    register_calibrator,
)
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline.spec.calibration import CalibratorSection, CrossValidated, Platt
from ctr_pipeline_tests.serving.shop import SPEC


@dataclass(frozen=True)
class Shift:
    """Adds 1.5 to every logit."""

    shift: float
    rows: int
    positives: int
    reason: str | None = None

    @classmethod
    def fit(cls, logits: np.ndarray, labels: np.ndarray) -> "Shift":  # noqa: ARG003
        known = labels >= 0
        return cls(1.5, int(known.sum()), int((labels == 1).sum()))

    def apply(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits, dtype=np.float64) + self.shift

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Shift":
        return cls(**content)

    @classmethod
    def module(cls, fitted: Any) -> nn.Module:
        raise NotImplementedError


class Turned(Shift):
    """Breaks the contract: the highest logit becomes the lowest."""

    def apply(self, logits: np.ndarray) -> np.ndarray:
        return -np.asarray(logits, dtype=np.float64)


class Stretch(CalibratorSection):
    kind: Literal["stretch_for_registry"] = "stretch_for_registry"
    slope: float = Field(default=2.0, gt=0)


class Stretched(Shift):
    @classmethod
    def fit(cls, logits: np.ndarray, labels: np.ndarray, section: Stretch) -> "Stretched":  # type: ignore[override]
        return cls(section.slope, len(logits), int((labels == 1).sum()))


register_calibrator("shift_for_registry", Shift)
register_calibrator("turned_for_registry", Turned)
register_calibrator("stretch_for_registry", Stretched, Stretch)

LOGITS = np.random.default_rng(0).normal(-1, 1, (400, 2)).astype(np.float32)
LABELS = (np.random.default_rng(1).random((400, 2)) < 0.3).astype(np.int8)


def spec_with(**calibration: Any) -> Spec:
    return parse_spec(f"{SPEC}calibration: {calibration}\n", "test")


def test_the_choice_is_the_default_and_stays_out_of_the_dumped_spec() -> None:
    spec = parse_spec(SPEC, "test")
    assert spec.calibration == CrossValidated()
    assert "calibration" not in spec.model_dump(mode="json")
    assert spec_with(kind="cross_validated") == spec
    assert spec_with(kind="platt").calibration == Platt()


def test_a_calibrator_without_fields_needs_one_class_and_one_call() -> None:
    spec = spec_with(kind="shift_for_registry")
    assert spec.model_dump(mode="json")["calibration"] == {"kind": "shift_for_registry"}
    fitted = fit_calibrators(spec.calibration, ["click", "buy"], LOGITS, LABELS)
    assert fitted == {
        "click": Shift(1.5, 400, int(LABELS[:, 0].sum())),
        "buy": Shift(1.5, 400, int(LABELS[:, 1].sum())),
    }


def test_a_calibrator_with_fields_receives_its_section() -> None:
    fitted = fit_calibrators(spec_with(kind="stretch_for_registry", slope=3).calibration, ["click"], LOGITS, LABELS)
    assert fitted["click"].apply(np.zeros(1)) == 3


def test_each_task_is_fitted_on_its_own_labelled_rows() -> None:
    labels = LABELS.copy()
    labels[100:, 1] = -1
    logits = LOGITS.copy()
    logits[100:, 1] = np.nan
    fitted = fit_calibrators(Platt(), ["click", "buy"], logits, labels)
    assert (fitted["click"].rows, fitted["buy"].rows) == (400, 100)
    with pytest.raises(ScoreError, match="row 100: logit nan"):
        fit_calibrators(Platt(), ["click", "buy"], logits, LABELS)


def test_a_calibrator_that_turns_the_order_around_is_refused() -> None:
    section = spec_with(kind="turned_for_registry").calibration
    with pytest.raises(CalibrationError, match="'turned_for_registry', fitted for task 'click', does not keep the ord"):
        fit_calibrators(section, ["click"], LOGITS, LABELS)


def test_json_names_every_kind_but_the_first() -> None:
    platt = PlattCalibrator(a=1.5, rows=3)
    assert calibrator_to_json(platt) == platt.to_json()
    assert calibrator_from_json(platt.to_json()) == platt
    assert calibrator_from_json({"kind": "platt", **platt.to_json()}) == platt
    content = calibrator_to_json(Shift(2.0, 10, 3))
    assert content == {
        "kind": "shift_for_registry", "package": __name__.partition(".")[0],
        "shift": 2.0, "rows": 10, "positives": 3, "reason": None,
    }  # fmt: skip
    assert calibrator_from_json(content) == Shift(2.0, 10, 3)


def test_json_of_a_kind_that_is_not_registered_here_is_refused() -> None:
    content = {"kind": "temperature", "package": "other_calibrators", "t": 1.0}
    with pytest.raises(
        CalibrationError, match=r"kind 'temperature'; registered: .*platt.* here too: other_calibrators"
    ):
        calibrator_from_json(content)

    class Unknown(Shift):
        pass

    with pytest.raises(CalibrationError, match="Unknown is not registered"):
        calibrator_to_json(Unknown(1.0, 1, 1))


def test_registering_needs_no_torch() -> None:
    script = "import sys, ctr_pipeline.calibration; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
