"""Reads a spec file; its errors name key, value and remedy."""

import hashlib
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ctr_pipeline.errors import UserError
from ctr_pipeline.spec.fields import FROM_FILE
from ctr_pipeline.spec.problems import describe_problem, kind_of
from ctr_pipeline.spec.spec import Spec


class SpecError(UserError):
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
            f"{where}: expected a mapping with keys such as `version`, `name`, `impression`; found {kind_of(content)}."
        )
    try:
        return Spec.model_validate(content, context={FROM_FILE: True})
    except ValidationError as error:
        problems = "\n".join(f"  {describe_problem(e, Spec)}" for e in error.errors())
        raise SpecError(
            f"{where}: {error.error_count()} problem(s)\n{problems}\nEvery field is explained in docs/spec.md."
        ) from error


def spec_hash(spec: Spec) -> str:
    """SHA-256 (first 16 hex digits) of the spec's content, whatever its layout in the file."""
    canonical = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class _UniqueKeyLoader(yaml.SafeLoader):
    """Plain YAML loading would keep the last of two equal keys, and so drop a part of the spec without a message."""

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
