"""Messages for what pydantic found wrong, in terms of the spec."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel

from ctr_pipeline.spec.simulator import INCIDENT_KINDS

_EXPECTED = {
    "model_type": "a mapping with keys is expected",
    "list_type": "a list is expected: write `- item` lines, or [item, item]",
    "string_type": "text is expected: put the value in quotes if it is meant as text",
}
"""Clearer texts for messages that would otherwise name Python types."""


_TAGS = {
    "contextual": ("numeric", "categorical"),
    "history": ("rate", "count", "recency", "first_seen", "sequence", "top"),
    "incidents": INCIDENT_KINDS,
}
"""Lists whose items come in several kinds, and the keys that distinguish them."""


def describe_problem(error: Any, root: type[BaseModel]) -> str:
    """One problem that pydantic found in a section of type ``root``: which field, what was found, what is expected."""
    location = _written_location(error["loc"])
    field = ".".join(str(part) for part in location) or "spec"
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_fields(error["loc"][:-1], root), n=1)
        return (
            f"{field}: unknown key{f'; did you mean `{near[0]}`?' if near else ': remove it or correct its spelling'}"
        )
    if kind == "missing":
        return f"{field}: required, but absent: add it"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return f"{field}: {_missing_tag(error['ctx'], error['loc'][-2])}"
    if kind == "value_error":  # written by a section of the spec, which names the values itself
        message = error["msg"].removeprefix("Value error, ")
        return f"{field}: {message}" if isinstance(found, dict | list) else f"{field}: {message} (found {found!r})"
    return f"{field}: {_EXPECTED.get(kind, error['msg'])} (found {_shown(found)})"


def _written_location(location: tuple[Any, ...]) -> list[Any]:
    """The location without the names of union members, which stand right behind an index and are not in the file."""
    return [part for n, part in enumerate(location) if n == 0 or isinstance(part, int) or not _is_tag(location, n)]


def _is_tag(location: tuple[Any, ...], position: int) -> bool:
    return position >= 2 and location[position] in _TAGS.get(location[position - 2], ())


def _missing_tag(context: dict[str, str], section: str) -> str:
    key = context["discriminator"].strip("'")
    choices = ", ".join(repr(tag) for tag in _TAGS[section])
    found = f" (found {context['tag']!r})" if "tag" in context else ""
    return f"set `{key}` to one of {choices}{found}"


def _shown(value: Any) -> str:
    return kind_of(value) if isinstance(value, dict | list | BaseModel) or value is None else repr(value)


def kind_of(value: Any) -> str:
    """What ``value`` is, as a person would call it."""
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict | BaseModel) else repr(value)


def _known_fields(location: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    """Field names of the section at ``location``, for spelling suggestions."""
    sections: list[type[BaseModel]] = [root]
    for position, part in enumerate(location):
        if isinstance(part, int):
            continue
        if _is_tag(location, position):
            sections = [section for section in sections if _has_tag(section, part)]
        else:
            annotations = [s.model_fields[part].annotation for s in sections if part in s.model_fields]
            inner = [t for annotation in annotations for t in _flatten(annotation)]
            sections = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
    return [name for section in sections for name in section.model_fields]


def _has_tag(section: type[BaseModel], tag: str) -> bool:
    return any(section.model_fields[key].default == tag for key in ("type", "kind") if key in section.model_fields)


def _flatten(annotation: Any) -> list[Any]:
    return [annotation] + [inner for argument in get_args(annotation) for inner in _flatten(argument)]
