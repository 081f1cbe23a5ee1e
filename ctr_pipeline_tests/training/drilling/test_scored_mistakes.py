"""Mistakes of logs and refactorings: each is the same with the same seed, and does the harm that it is there for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctr_pipeline.gradients.drills import log_mistakes, refactoring_mistakes, registered_faults
from ctr_pipeline.gradients.drills.benign_variants import BENIGN
from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.training.drilling import run_drill
from ctr_pipeline.training.drilling.drilled_run import Drill
from ctr_pipeline.training.drilling.made_up_rows import make_rows

HARM = 0.01

MISTAKES = [
    fault
    for fault in registered_faults()
    if any(
        f'name="{fault.name}"' in Path(module.__file__).read_text() for module in (log_mistakes, refactoring_mistakes)
    )
]


def without_contracts(fault: Fault, seed: int, folder: Path) -> Drill:
    return run_drill(fault, seed, folder, contracts=False)


def test_there_are_more_than_fifteen_families_in_one_half() -> None:
    assert {fault.half for fault in MISTAKES} == {"development"}
    families = {fault.family for fault in MISTAKES}
    assert len(families) > 15
    assert not families & {fault.family for fault in registered_faults() if fault not in MISTAKES}


@pytest.mark.parametrize("part", ["rows", "other_rows"])
def test_rows_of_a_mistake_depend_on_the_seed_alone_and_stay_rows(part: str) -> None:
    given = make_rows(2_000, 5)
    for fault in MISTAKES:
        first, again = (getattr(fault, part)(given, np.random.default_rng(7)) for _ in range(2))
        for name, array in first.arrays().items():
            np.testing.assert_array_equal(array, again.arrays()[name], err_msg=fault.name)
            assert array.dtype == given.arrays()[name].dtype, (fault.name, name)
        assert 200 < len(first) <= len(given), fault.name
        assert first.ids.min() >= 1
        assert (first.ids.max(axis=0) < (60, 200, 6)).all(), fault.name
        assert np.isfinite(first.numeric).all()
        assert (first.weights >= 0).all()
        assert first.weights.mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["few_rows_drawn", "average_learns"])
def test_a_training_with_a_mistake_is_the_same_again(name: str, tmp_path: Path) -> None:
    fault = replace(next(fault for fault in MISTAKES if fault.name == name), training={"epochs": 1})
    first, again, other = (
        without_contracts(fault, seed, tmp_path / at) for seed, at in ((1, "first"), (1, "again"), (2, "other"))
    )
    assert first.metrics == again.metrics
    assert first.metrics != other.metrics


@pytest.mark.nightly
@pytest.mark.parametrize("fault", MISTAKES, ids=lambda fault: fault.name)
def test_each_mistake_does_harm(fault: Fault, tmp_path: Path) -> None:
    healthy = replace(BENIGN[0], model=fault.model)
    for seed in (1, 2, 3):
        well, ill = (without_contracts(one, seed, tmp_path / f"{one.name}-{seed}") for one in (healthy, fault))
        assert well.validation is not None
        assert ill.validation is not None
        assert ill.validation > well.validation + HARM
