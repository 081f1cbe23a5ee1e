"""Assignment of users: the declared shares, stable, independent of other experiments, apart from canaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.design import CONTROL, TREATMENT, Canary, Design
from ctr_pipeline.serving.release import in_canary
from ctr_pipeline.spec.assignment import place_of

USERS = [f"{number:032x}" for number in range(20_000)]


def arms(design: Design) -> np.ndarray:
    return np.array([design.arm_of(user) or "none" for user in USERS])


def test_arms_have_the_declared_shares() -> None:
    found = arms(Design(name="one", share=0.4, treated=0.25))
    shares = [np.mean(found == name) for name in (TREATMENT, CONTROL)]
    assert shares == pytest.approx([0.1, 0.3], abs=4 * np.sqrt(0.3 * 0.7 / len(USERS)))


def test_a_larger_share_adds_users_and_moves_none() -> None:
    small, large = arms(Design(name="one", share=0.2)), arms(Design(name="one", share=0.6))
    assert np.array_equal(small[small != "none"], large[small != "none"])


def test_another_name_is_an_independent_assignment() -> None:
    one, other = arms(Design(name="one")) == TREATMENT, arms(Design(name="other")) == TREATMENT
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(len(USERS))


def test_users_of_a_canary_take_no_part_and_leave_the_arms_even() -> None:
    design = Design(name="one", canaries=(Canary("trial", 0.3),))
    found = arms(design)
    of_canary = np.array([in_canary(user, "trial", 0.3) for user in USERS])
    assert (found[of_canary] == "none").all()
    assert (found[~of_canary] != "none").all()
    assert np.mean(found[~of_canary] == TREATMENT) == pytest.approx(0.5, abs=0.02)
    assert np.mean(found != "none") == pytest.approx(design.taking_part, abs=0.02)
    assert Design(name="one", share=0.5, canaries=(Canary("a", 0.1), Canary("b", 0.2))).taking_part == pytest.approx(
        0.36
    )


@given(st.text(max_size=40), st.text(max_size=40))
def test_places_are_of_the_unit_and_the_key(unit: str, key: str) -> None:
    assert 0 <= place_of(unit, key) < 1
    assert place_of(unit, key) == place_of(unit, key)
    assert place_of(unit, key) != place_of(unit + "x", key)
    assert not in_canary(unit, key, 0.0)
    assert in_canary(unit, key, 1.0)


def test_a_design_is_what_it_was_when_it_is_read_again() -> None:
    design = Design(name="one", share=0.5, treated=0.3, canaries=(Canary("trial", 0.1),))
    assert Design.from_json(design.to_json()) == design


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "it has no name"),
        ({"share": 0.0}, "share: expected a share of the users above 0, and at most 1; found 0"),
        ({"treated": 1.0}, "treated: expected a share between 0 and 1; found 1"),
        ({"canaries": (Canary("t", 1.5),)}, "canary t: expected its share of the users, between 0 and 1; found 1.5"),
    ],
)
def test_what_is_no_design_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Design(**({"name": "one"} | change))  # type: ignore[arg-type]
