"""Reads a spec file, and says in the user's words what is wrong with it."""

import difflib
import hashlib
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ctr_pipeline.spec.fields import FROM_FILE
from ctr_pipeline.spec.simulator import INCIDENT_KINDS
from ctr_pipeline.spec.spec import Spec


class SpecError(ValueError):
    """A spec that cannot be used; the message names the file, field, value and remedy."""


def load_spec(path: Path) -> Spec:
    """The validated spec in the YAML file ``path``.

    Raises:
        SpecError: the file is missing, is not YAML, or breaks the format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"{path}: no such file. Name an existing spec, such as one of the folder specs/.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as UTF-8 text ({error}). Name a YAML file.") from error
    return parse_spec(text, where=str(path))


def parse_spec(text: str, where: str) -> Spec:
    """The validated spec in YAML ``text``; ``where`` names its origin in messages.

    Raises:
        SpecError: as for :func:`load_spec`.
    """
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader: builds plain values only
    except yaml.YAMLError as error:
        raise SpecError(f"{where}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise SpecError(
            f"{where}: expected a mapping with keys such as `version`, `name`, `impression`; found {_kind(content)}."
        )
    try:
        return Spec.model_validate(content, context={FROM_FILE: True})
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(e)}" for e in error.errors())
        raise SpecError(
            f"{where}: {error.error_count()} problem(s)\n{problems}\nEvery field is explained in docs/spec.md."
        ) from error


def spec_hash(spec: Spec) -> str:
    """SHA-256 (first 16 hex digits) of the spec's content, whatever its layout in the file."""
    canonical = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class _UniqueKeyLoader(yaml.SafeLoader):
    """Plain YAML loading would keep the last of two equal keys, and so drop a part of the spec unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None,
                        None,
                        f"key `{key.value}` stands twice, first in line {seen[key.value]}: keep one of them",
                        key.start_mark,
                    )
                seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_EXPECTED = {
    "model_type": "a mapping with keys is expected",
    "list_type": "a list is expected: write `- item` lines, or [item, item]",
    "string_type": "text is expected: put the value in quotes if it is meant as text",
}
"""Clearer words for messages that would otherwise speak of Python types."""


_TAGS = {
    "contextual": ("numeric", "categorical"),
    "history": ("rate", "count", "recency", "first_seen", "sequence"),
    "incidents": INCIDENT_KINDS,
}
"""Lists whose items come in several kinds, and the words that tell the kinds apart."""


def _describe(error: Any) -> str:
    location = _written_location(error["loc"])
    field = ".".join(str(part) for part in location) or "spec"
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_fields(error["loc"][:-1]), n=1)
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
    return _kind(value) if isinstance(value, dict | list | BaseModel) or value is None else repr(value)


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict | BaseModel) else repr(value)


def _known_fields(location: tuple[Any, ...]) -> list[str]:
    """Field names of the section at ``location``, for spelling suggestions."""
    sections: list[type[BaseModel]] = [Spec]
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
