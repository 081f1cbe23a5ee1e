"""What a user reads when what is listed of the past, or the module that reads it, is declared wrongly."""

import copy
from typing import Any

import pytest
import yaml

from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.spec.changes import GOOD, Change, require_message, set_to

RECENT = {"name": "recent", "kind": "sequence", "key": "user", "events": ["impression", "click"], "item": "ad_id"}
TOP = {"name": "liked", "kind": "top", "key": "user", "item": "ad_id", "task": "click"}


def listing(feature: dict[str, Any], *modules: Any, **changes: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        content["features"]["history"].append(feature | changes)
        if modules:
            set_to("model.sequences", list(modules))(content)

    return change


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "events that no module reads": (
        listing(RECENT),
        ("history feature 'recent' lists `events`, and no module reads them", "`target_attention`"),
    ),
    "a module without events": (
        set_to("model.sequences", ["transformer"]),
        ("`model.sequences` reads a list of events, and `features.history` has none", "with `events`"),
    ),
    "a module of an absent feature": (
        listing(RECENT, {"kind": "transformer", "feature": "resent"}),
        ("`model.sequences[0].feature` names 'resent'", "use one of recent"),
    ),
    "a module that could read two": (
        lambda c: (listing(RECENT)(c), listing(RECENT, "transformer", name="more")(c)),
        ("`model.sequences[0]`: set `feature` to one of recent, more",),
    ),
    "an unknown module": (
        listing(RECENT, "transformr"),
        ("model.sequences.0: set `kind` to one of ", "'target_attention'", "did you mean 'transformer'?"),
    ),
    "heads that do not divide the width": (
        listing(RECENT, {"kind": "transformer", "dim": 10, "heads": 4}),
        ("model.sequences.0: ", "`dim` 10 is divided among the heads: make it a multiple of `heads` 4"),
    ),
    "events of an unknown task": (
        listing(RECENT, "transformer", events=["view"]),
        ("history feature 'recent' lists events 'view'; use `impression` or one of click, order",),
    ),
    "weights that look back from the impression": (
        listing(TOP, exact=True),
        ("features.history.1.exact: unknown key",),
    ),
    "exact that is neither": (listing(RECENT, "transformer", exact="often"), ("features.history.1.exact: ", "'often'")),
    "events and a task": (
        listing(RECENT, "transformer", task="click"),
        ("features.history.1: `events` says what is listed: move `task: click` into it",),
    ),
    "an encoding of the ages of events": (
        listing(RECENT, "transformer", encoding="bucket"),
        ("ages of `events` are read by a module of `model.sequences` alone: remove `encoding`",),
    ),
    "one kind of events twice": (
        listing(RECENT, "transformer", events=["click", "click"]),
        ("`events` lists each kind once, found click, click",),
    ),
    "too many places": (
        listing(RECENT, events=None, length=60),
        ("`length: 60` makes as many inputs: at most 50, or list the past under `events`",),
    ),
    "a list of no category": (
        listing(TOP, item="price"),
        ("history feature 'liked' lists item 'price', which is no categorical feature of one value; use one of ad_id",),
    ),
    "what is liked by an unknown task": (
        listing(TOP, task="view"),
        ("history feature 'liked' counts task 'view'; use one of click, order",),
    ),
    "a half-life of nothing": (listing(TOP, half_life="0s"), ("features.history.1.half_life", "greater than 0")),
    "a place of a list as a name": (
        lambda c: (listing(TOP)(c), c["features"]["categorical"].append({"name": "liked_1"})),
        ("each feature needs a name of its own; used twice: liked_1",),
    ),
    "the list of ages as a name": (
        lambda c: (listing(RECENT, "transformer")(c), c["features"]["dense"].append({"name": "recent_age"})),
        ("each feature needs a name of its own; used twice: recent_age",),
    ),
    "gates from what only a module of sequences reads": (
        lambda c: (
            listing(RECENT, "transformer")(c),
            listing(TOP)(c),
            set_to("model.interactions", [{"kind": "feature_gates", "context": ["liked", "recent"]}])(c),
        ),
        (
            "`context` of an interaction `feature_gates` names 'recent', which is no embedded feature",
            "use some of ad_id, ",
        ),
    ),
    "gates of a branch from what there is not": (
        set_to(
            "model.branches",
            [{"name": "one"}, {"name": "two", "interactions": [{"kind": "feature_gates", "context": ["price"]}]}],
        ),
        ("`context` of an interaction `feature_gates` names 'price'", "use some of ad_id"),
    ),
    "heads that do not divide the width of an interaction": (
        set_to("model.interactions", [{"kind": "field_attention", "width": 10, "heads": 4}]),
        ("model.interactions.0: ", "`width` 10 is divided among the heads: make it a multiple of `heads` 4"),
    ),
    "a slice by the ages of events": (
        lambda c: (
            listing(RECENT, "transformer")(c),
            set_to("evaluation", {"slices": [{"feature": "recent_age", "edges": [60]}]})(c),
        ),
        (
            "names 'recent_age', which is no feature of one value with values in the clear; use one of ad_id, ctr_7d, hour, price\n",
        ),
    ),
    "users that drift by nothing": (
        lambda c: c.update(source={"simulator": {"user_drift": {"renewed": 0}}}),
        ("source.simulator.user_drift.renewed", "greater than 0"),
    ),
    "offsets by what is liked": (
        lambda c: (listing(TOP)(c), set_to("calibration", {"kind": "platt", "offsets_by": "liked"})(c)),
        ("names 'liked', which is made of the past",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message_names_field_value_and_remedy(case: str) -> None:
    require_message(*CASES[case])


def test_lists_are_read_and_stay_out_of_specs_without_them() -> None:
    content = copy.deepcopy(GOOD)
    plain = parse_spec(yaml.safe_dump(content), "shop.yaml")
    assert "sequences" not in plain.model_dump(mode="json")["model"]
    listing(RECENT, "target_attention", {"kind": "transformer", "feature": "recent"})(content)
    listing(TOP, half_life="36h")(content)
    spec = parse_spec(yaml.safe_dump(content), "shop.yaml")
    assert [feature.name for feature in spec.features.event_lists] == ["recent"]
    assert spec.features.inputs[-4:] == ("recent_age[4]", "liked", "recent", "recent_event")
    assert parse_spec(yaml.safe_dump(spec.model_dump(mode="json")), "again.yaml") == spec
    only = copy.deepcopy(GOOD)
    listing(RECENT, "transformer", events=["click"])(only)
    assert parse_spec(yaml.safe_dump(only), "one.yaml").features.inputs[-1] == "recent"
