"""What a user reads when a spec declares its side tables wrongly."""

from typing import Any

import pytest

from ctr_pipeline_tests.spec.changes import Change, require_message, set_to, without

ITEMS: dict[str, Any] = {"name": "items", "paths": ["items"], "key": "sku", "valid_from": "since"}


def table(more: Change = dict, **changes: Any) -> Change:
    """The good spec with a side table, changed, whose column a feature reads; then ``more``."""

    def change(content: dict[str, Any]) -> None:
        set_to("source.tables", [ITEMS | {"impression_column": "ad_id"} | changes])(content)
        set_to("features.dense.0.column", "items.price")(content)
        more(content)

    return change


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "time not mentioned": (table(without("source.tables.0.valid_from")), ("source.tables.0.valid_from: required",)),
    "no key": (table(without("source.tables.0.key")), ("source.tables.0.key: required, but absent",)),
    "unknown field": (table(on="ad_id"), ("source.tables.0.on: unknown key",)),
    "an id as time": (table(valid_from="sku"), ("source.tables.0", "`key` and `valid_from` are both 'sku'")),
    "format of another column": (
        table(time_format={"at": "%Y%m%d"}),
        ("`time_format` names a column that is not `valid_from` (since)",),
    ),
    "a table that no feature reads": (
        table(set_to("features.dense.0.column", "price")),
        ("no feature reads a column of side table 'items'", "`items.<column>`", "or remove the table"),
    ),
    "two tables of one name": (
        table(lambda c: c["source"]["tables"].append(c["source"]["tables"][0])),
        ("side tables and event logs need names of their own", "['outcome_events', 'items', 'items']"),
    ),
    "a table called as an event log": (
        table(set_to("source.events.0.name", "items")),
        ("side tables and event logs need names of their own",),
    ),
    "a table called as the impressions": (table(name="impressions"), ("other than impressions",)),
    "times for a log without a clock": (
        table(
            lambda c: (
                without("impression.time")(c),
                set_to("impression.order", {"column": "row", "rows_per_day": 10})(c),
            )
        ),
        ("side table 'items' has times (`valid_from`), but the days of an `order` are artificial",),
    ),
    "joined by another table": (
        table(impression_column="items.ad"),
        ("side table 'items' is joined by 'items.ad', a column of a side table",),
    ),
    "joined by the outcome": (
        table(
            lambda c: (
                set_to("tasks.0.label", {"column": "clicked"})(c),
                set_to("source.tables.0.impression_column", "clicked")(c),
            )
        ),
        ("side table 'items' is joined by 'clicked', which holds the outcome of a task",),
    ),
    "joined by a list": (
        table(
            set_to("features.categorical", [{"name": "ad_id"}, {"name": "past", "list": {}}]), impression_column="past"
        ),
        ("side table 'items' is joined by 'past', which holds lists",),
    ),
    "a position from a table": (
        table(set_to("impression.position", "items.slot")),
        ("column 'items.slot' is one of side table 'items', and only features read those",),
    ),
    "rows by a column of a table": (
        table(set_to("source.impressions.rows", [{"column": "items.kind", "keep": ["a"]}])),
        ("column 'items.kind' is one of side table 'items', and only features read those",),
    ),
    "missing values of a column that is not read": (
        table(null_values={"prize": [-1]}),
        ("`null_values` of side table 'items' names column 'prize'", "did you mean 'price'?"),
    ),
    "a hashed time": (
        table(set_to("privacy.pseudonymise", ["items.since"])),
        ("`privacy.pseudonymise` names items.since, which `valid_from` reads as a time",),
    ),
    "a key as a number": (
        table(set_to("features.dense.0.column", "items.sku"), impression_column="user_id"),
        ("numeric feature 'price' reads column 'items.sku', which is replaced by a keyed hash",),
    ),
    "tables beside the simulator": (
        table(
            lambda c: set_to("source", {"tables": c["source"]["tables"], "simulator": {}})(c),
        ),
        ("`simulator` has no side tables: remove `tables` (items)",),
    ),
}


@pytest.mark.parametrize(("change", "parts"), CASES.values(), ids=CASES.keys())
def test_message_names_field_value_and_remedy(change: Change, parts: tuple[str, ...]) -> None:
    require_message(change, parts)
