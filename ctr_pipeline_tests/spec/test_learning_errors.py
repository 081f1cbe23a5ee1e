"""What a user reads when what a task learns from, or what the position does, is declared wrongly."""

import pytest

from ctr_pipeline_tests.spec.changes import Change, require_message, set_to

CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "unknown maturity": (
        set_to("split.maturity", "task"),
        ("split.maturity", "by_task", "longest", "(found 'task')"),
    ),
    "a position effect without a position": (
        lambda c: (c["impression"].pop("position", None), set_to("model.position", "additive")(c)),
        ("`model.position` is additive, and no column holds the position", "`impression.position`"),
    ),
    "a context that is no category": (
        lambda c: (
            set_to("impression.position", "slot")(c),
            set_to("model.position", {"kind": "examination", "context": ["price"]})(c),
        ),
        ("`model.position.context` names 'price'", "categorical features of one value"),
    ),
    "unknown position effect": (
        set_to("model.position", "additiv"),
        ("model.position: set `kind` to one of 'additive', 'examination', 'none'", "did you mean 'additive'?"),
    ),
    "intervals of delay that do not rise": (
        set_to("tasks.0.objective", {"kind": "binary", "loss": {"kind": "dfm_discrete", "edges": ["2d", "1d"]}}),
        ("tasks.0.objective: loss: edges: the ends of the intervals rise from above 0; found ['2d', '1d']",),
    ),
    "labels that are more than half smoothed": (
        set_to("training.label_smoothing", 0.5),
        ("training.label_smoothing", "less than 0.5", "(found 0.5)"),
    ),
    "negative smoothing": (
        set_to("training.label_smoothing", -0.1),
        ("training.label_smoothing", "greater than or equal to 0", "(found -0.1)"),
    ),
    "smoothing in words": (set_to("training.label_smoothing", "some"), ("training.label_smoothing", "(found 'some')")),
    "smoothing of another loss": (
        lambda c: (
            set_to("training.label_smoothing", 0.1)(c),
            set_to("tasks.1.objective", {"kind": "binary", "loss": "dfm_weibull"})(c),
        ),
        ("`training.label_smoothing` is of the binary cross-entropy", "trains order: remove one of both"),
    ),
    "a delayed loss for cases that are undecided": (
        lambda c: (
            set_to("tasks.0.label", {"time_column": "a", "closed_by": ["b"]})(c),
            set_to("tasks.0.objective", {"kind": "binary", "loss": "fsiw"})(c),
        ),
        ("tasks.0: a loss that learns from open labels takes silence for `not yet`", "binary_cross_entropy"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message_names_field_value_and_remedy(case: str) -> None:
    require_message(*CASES[case])
