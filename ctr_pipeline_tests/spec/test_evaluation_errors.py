"""What a user reads when a spec declares costs of the evaluation wrongly."""

import pytest

from ctr_pipeline_tests.spec.changes import Change, require_message, set_to

CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "costs of no task": (
        set_to("evaluation", {"costs": [{"task": "rent", "cost": 1, "value": 2}]}),
        ("`evaluation.costs[0]` names 'rent', which is no task; use click",),
    ),
    "costs of one task twice": (
        set_to("evaluation", {"costs": [{"task": "click", "cost": 1, "value": 2}] * 2}),
        ("`evaluation.costs[1]`: 'click' has costs already; leave one of them",),
    ),
    "an outcome that is worth nothing": (
        set_to("evaluation", {"costs": [{"task": "click", "cost": 1, "value": 0}]}),
        ("evaluation.costs.0.value: Input should be greater than 0 (found 0)",),
    ),
    "an action that pays": (
        set_to("evaluation", {"costs": [{"task": "click", "cost": -1, "value": 2}]}),
        ("evaluation.costs.0.cost: Input should be greater than or equal to 0 (found -1)",),
    ),
}


@pytest.mark.parametrize(("change", "parts"), CASES.values(), ids=CASES.keys())
def test_message_names_field_value_and_remedy(change: Change, parts: tuple[str, ...]) -> None:
    require_message(change, parts)
