"""Changes that make a good spec a bad one, and the message that a user then reads."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ctr_pipeline.spec import SpecError, parse_spec

GOOD: dict[str, Any] = {
    "version": 1,
    "name": "shop",
    "source": {"impressions": {"paths": ["impressions.parquet"]}, "events": [{"paths": ["events.parquet"]}]},
    "impression": {
        "id": "impression_id",
        "time": "ts",
        "user": "user_id",
        "position": "slot",
        "traffic": {"column": "traffic", "random": ["random"], "production": ["production"]},
    },
    "features": {
        "dense": [{"name": "price"}],
        "categorical": [{"name": "ad_id"}],
        "contextual": [{"name": "hour", "type": "categorical"}],
        "history": [{"name": "ctr_7d", "kind": "rate", "key": "ad_id", "task": "click", "days": 7}],
    },
    "tasks": [
        {"name": "click", "window": "24h", "label": {"event": "click"}},
        {"name": "order", "parent": "click", "window": "7d", "window_from": "click", "label": {"event": "order"}},
    ],
}

Change = Callable[[dict[str, Any]], object]


def set_to(path: str, value: object) -> Change:
    """A change that puts ``value`` at a dotted path; numbers are places in lists."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        section: Any = content
        for part in parents:
            section = section[part] if isinstance(part, int) else section.setdefault(part, {})
        section[last] = value

    return change


def without(path: str) -> Change:
    """A change that removes the key at a dotted path."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        section: Any = content
        for part in parents:
            section = section[part]
        del section[last]

    return change


def message_of(*changes: Change) -> str:
    """The error text of the good spec with ``changes``."""
    content = copy.deepcopy(GOOD)
    for change in changes:
        change(content)
    with pytest.raises(SpecError) as caught:
        parse_spec(yaml.safe_dump(content), where="shop.yaml")
    text = str(caught.value)
    assert text.startswith("shop.yaml: ")
    assert "docs/spec.md" in text
    assert "pydantic" not in text.lower()
    return text


def require_message(change: Change, parts: tuple[str, ...]) -> None:
    """Raises AssertionError unless one problem is reported, in a text that has ``parts``."""
    message = message_of(change)
    assert "shop.yaml: 1 problem(s)\n" in message
    for part in parts:
        assert part in message
