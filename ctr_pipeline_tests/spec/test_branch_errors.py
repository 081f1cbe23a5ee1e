"""Branches that no model can be made of are refused, with what to do."""

import pytest
from pydantic import ValidationError

from ctr_pipeline.spec.model import Model

DEEP, CROSSED = {"name": "deep"}, {"name": "crossed", "hidden": [], "interactions": ["cross"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fusion": {"kind": "gated"}}, "`fusion` needs `branches`: declare at least two"),
        ({"branches": [DEEP]}, "one alone is no ensemble; declare another"),
        ({"branches": [DEEP, CROSSED, DEEP]}, "deep is there twice; give each a name of its own"),
        ({"branches": [DEEP, CROSSED], "interactions": ["cross"]}, "move them into the branch"),
        ({"branches": [DEEP, CROSSED], "multi_task": "mmoe"}, "each branch has its own heads already"),
        (
            {"branches": [DEEP, {"name": "empty", "hidden": []}]},
            "branch 'empty' has neither hidden layers nor interactions",
        ),
        ({"branches": [DEEP, CROSSED], "hidden": []}, "branch 'deep' has no interactions, and `hidden` is empty"),
        ({"branches": [{"name": "A b"}, CROSSED]}, "a name starts with a lower-case letter"),
        ({"branches": [DEEP, CROSSED], "fusion": {"kind": "mean"}}, "'average', 'gated' or 'logistic'"),
        ({"branches": [DEEP, CROSSED], "fusion": {"branch_dropout": 1}}, "less than 1"),
        ({"branches": [DEEP, CROSSED], "fusion": {"stop": "all"}}, "'none' or 'drop'"),
        ({"branches": [DEEP, CROSSED], "fusion": {"margin": -1}}, "greater than or equal to 0"),
        ({"branches": [DEEP, {**CROSSED, "width": 3}]}, "Extra inputs are not permitted"),
    ],
)
def test_unusable_branches_are_refused(content: dict, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(content)
    assert message in str(caught.value)


def test_a_stored_model_with_branches_comes_back() -> None:
    model = Model.model_validate({"branches": [DEEP, CROSSED], "fusion": {"kind": "gated", "stop": "drop"}})
    assert Model.model_validate_json(model.model_dump_json()) == model
