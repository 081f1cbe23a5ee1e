"""States of optimizers that are not what is expected are told with their form."""

from typing import Any

import pytest
import torch

from ctr_pipeline.gradients.triage.state_rules import ROUNDING, state_differences

EXPECTED: dict[str, Any] = {"step": torch.tensor(3.0), "exp_avg": torch.linspace(-1, 1, 7), "foreach": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"exp_avg": torch.linspace(-1, 1, 7) * (1 + 1e-5)}, None),
        ({"momentum_buffer": torch.zeros(7)}, None),
        (
            {"exp_avg": torch.linspace(-1, 1, 7) * 2},
            "exp_avg of the optimizer of w now is not what is expected: it is 2 times",
        ),
        ({"step": torch.tensor(5.0)}, "it is 5, and 3 is expected"),
        ({"step": 5}, "it is 5, and 3 is expected"),
        ({"exp_avg": None}, "it is not there"),
        ({"momentum_buffer": torch.ones(7)}, "there is one, of size 1"),
    ],
)
def test_states_are_compared_by_value(change: dict[str, Any], words: str | None) -> None:
    found = list(state_differences({"w": EXPECTED | change}, {"w": EXPECTED}, "now", ROUNDING))
    assert [clue.cause for clue in found] == ([] if words is None else ["optimizer_state_differs"])
    assert words is None or words in found[0].text


def test_a_new_optimizer_remembers_nothing() -> None:
    assert not list(state_differences({}, {"w": {}}, "now"))
    assert not list(state_differences({"w": {"accumulated": torch.zeros(5)}}, {"w": {}}, "now"))
    (found,) = state_differences(
        {"w": {"accumulated": torch.full((5,), 9.0)}}, {"w": {"accumulated": torch.zeros(5)}}, "now"
    )
    assert "it is 9, and 0 is expected" in found.text
