"""What a user reads when the limits of the gates are declared wrongly."""

import pytest

from ctr_pipeline_tests.spec.changes import Change, require_message, set_to

CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "promotion that asks for something else": (
        set_to("quality.promotion", {"require": "best"}),
        ("quality.promotion.require", "'not_worse' or 'better'", "best"),
    ),
    "calibrated within everything": (
        set_to("quality.promotion", {"calibrated_within": 1}),
        ("quality.promotion.calibrated_within", "less than 1", "found 1"),
    ),
    "no retrain that is looked at": (set_to("evaluation", {"origins": 0}), ("evaluation.origins", "found 0")),
}


@pytest.mark.parametrize(("change", "parts"), CASES.values(), ids=CASES.keys())
def test_message_names_field_value_and_limit(change: Change, parts: tuple[str, ...]) -> None:
    require_message(change, parts)
