"""Each fault of a family that is only scored makes another model, as the validation sees it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ctr_pipeline.gradients.drills import registered_faults
from ctr_pipeline.gradients.drills.benign_variants import BENIGN
from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.training.drilling import run_drill

EFFECT = 0.001
STORED_ALONE = {"average_stored", "first_epoch_stored"}
"""The training is a healthy one, and what it stores is another model."""

SCORED = [fault for fault in registered_faults() if fault.half == "scored" and fault.name not in STORED_ALONE]


@pytest.mark.nightly
@pytest.mark.parametrize("fault", SCORED, ids=lambda fault: fault.name)
def test_the_validation_tells_a_faulty_model_from_a_healthy_one(fault: Fault, tmp_path: Path) -> None:
    healthy = replace(BENIGN[0], model=fault.model)
    for seed in (1, 2):
        well, ill, again = (
            run_drill(one, seed, tmp_path / f"{at}-{seed}", contracts=False)
            for at, one in (("well", healthy), ("ill", fault), ("again", fault))
        )
        assert (ill.crash, ill.cause) == ("", None)
        assert ill.metrics == again.metrics
        assert well.validation is not None
        assert ill.validation is not None
        assert abs(ill.validation - well.validation) > EFFECT
