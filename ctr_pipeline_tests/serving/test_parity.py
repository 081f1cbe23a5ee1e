"""The verdict on an export: each difference has a limit of its own."""

import math

import pytest

from ctr_pipeline.serving.parity import (
    MAX_BATCH_DIFFERENCE,
    MAX_LOGIT_DIFFERENCE,
    MAX_PROBABILITY_DIFFERENCE,
    Parity,
)

LIMITS = {"logit": MAX_LOGIT_DIFFERENCE, "probability": MAX_PROBABILITY_DIFFERENCE, "batch": MAX_BATCH_DIFFERENCE}


def test_differences_at_their_limits_pass() -> None:
    assert Parity(rows=1, **LIMITS).passed


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("factor", [1.01, math.nan, math.inf])
def test_one_difference_above_its_limit_fails_alone(name: str, factor: float) -> None:
    differences = {**dict.fromkeys(LIMITS, 0.0), name: LIMITS[name] * factor}
    assert not Parity(rows=1, **differences).passed
