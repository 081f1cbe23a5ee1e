"""Reads a spec file, and says in the user's words what is wrong with it."""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ctr_pipeline.spec.model import Spec


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
        raise SpecError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    return parse_spec(text, where=str(path))


def parse_spec(text: str, where: str) -> Spec:
    """The validated spec in YAML ``text``; ``where`` names its origin in messages.

    Raises:
        SpecError: as for :func:`load_spec`.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{where}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise SpecError(
            f"{where}: expected a mapping with keys such as `version`, `name`, `impression`; found {type(content).__name__}."
        )
    try:
        return Spec.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(e)}" for e in error.errors())
        raise SpecError(
            f"{where}: {error.error_count()} problem(s)\n{problems}\nEvery field is explained in docs/spec.md."
        ) from error


def spec_hash(spec: Spec) -> str:
    """SHA-256 (first 16 hex digits) of the spec's content, whatever its layout in the file."""
    canonical = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _describe(error: Any) -> str:
    location = [part for part in error["loc"] if part not in ("numeric", "categorical", "rate", "count", "recency")]
    field = ".".join(str(part) for part in location) or "spec"
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_fields(location[:-1]), n=1)
        return (
            f"{field}: unknown key{f'; did you mean `{near[0]}`?' if near else ': remove it or correct its spelling'}"
        )
    if kind == "missing":
        return f"{field}: required, but absent: add it"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(found, dict | list | BaseModel) or location == [] else f" (found {found!r})"
    return f"{field}: {message}{shown}"


def _known_fields(location: list[Any]) -> list[str]:
    """Field names of the section at ``location``, for spelling suggestions."""
    section: Any = Spec
    for part in location:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation if part in getattr(section, "model_fields", {}) else None
        section = next((t for t in _flatten(annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if section is None:
            return []
    return list(section.model_fields)


def _flatten(annotation: Any) -> list[Any]:
    return [annotation] + [inner for argument in get_args(annotation) for inner in _flatten(argument)]
