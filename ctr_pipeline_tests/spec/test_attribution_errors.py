"""What a user reads when a spec declares wrongly to which impressions events belong."""

import copy
from typing import Any

import pytest
import yaml

from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.spec.changes import GOOD, Change, require_message, set_to

BY = {"by": {"user_id": "customer", "ad_id": "sku"}, "within": "7d"}


def attributed(more: Change = dict, **changes: Any) -> Change:
    """The good spec whose events name no impression; then ``more``."""

    def change(content: dict[str, Any]) -> None:
        set_to("source.events.0", {"paths": ["orders.csv"], "impression_id": None, "attribute": BY | changes})(content)
        more(content)

    return change


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no id and nothing instead": (
        set_to("source.events.0.impression_id", None),
        ("source.events.0", "with `impression_id: null` say in `attribute`", "{by: [user, item], within: 7d}"),
    ),
    "an id and attribution": (
        set_to("source.events.0.attribute", BY),
        ("source.events.0", "`impression_id` is 'impression_id': set `impression_id: null`"),
    ),
    "by nothing": (attributed(by=[]), ("attribute.by", "such as [user, item]")),
    "by one text": (attributed(by="user_id"), ("attribute.by", "such as [user, item]")),
    "one column twice": (attributed(by=["user_id", "user_id"]), ("attribute.by", "names 'user_id' twice")),
    "no time": (attributed(within=None), ("attribute.within",)),
    "by a column that is not stored": (
        attributed(by=["user_id", "query"]),
        ("attributed by column 'query' of the impression log, which is not stored", "`impression.user`"),
    ),
    "by the type of the event": (
        attributed(by={"user_id": "event_type"}),
        ("source.events.0", "column 'event_type' is an id in `attribute.by`, and the type or a time of the event too"),
    ),
    "by a number": (attributed(by=["price"]), ("column 'price' of the impression log, which is not stored",)),
    "by a list": (
        attributed(set_to("features.categorical", [{"name": "ad_id"}, {"name": "past", "list": {}}]), by=["past"]),
        ("column 'past' of the impression log, which is not stored", "a categorical feature of one value"),
    ),
    "an event log that needs ids beside one that does not": (
        attributed(lambda c: (c["source"]["events"].append({"name": "clicks"}), set_to("impression.id", None)(c))),
        ("read events, which join by `impression.id`: name that column, not null",),
    ),
}


@pytest.mark.parametrize(("change", "parts"), CASES.values(), ids=CASES.keys())
def test_message_names_field_value_and_remedy(change: Change, parts: tuple[str, ...]) -> None:
    require_message(change, parts)


def test_impressions_without_ids_can_have_events_that_name_none() -> None:
    """File and row identify the impression then."""
    content = copy.deepcopy(GOOD)
    attributed(set_to("impression.id", None))(content)
    assert parse_spec(yaml.safe_dump(content), where="shop.yaml").impression.id is None
