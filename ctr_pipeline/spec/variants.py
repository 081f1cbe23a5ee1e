"""Sections of the spec that come in several kinds, named by their field ``kind``, and open to further ones."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError, ValidationInfo, create_model

from ctr_pipeline.errors import UserError
from ctr_pipeline.spec.fields import Section
from ctr_pipeline.spec.problems import describe_problem, kind_of


class Variant(Section):
    """A section of one kind; each class gives ``kind`` as ``Literal["name"] = "name"``."""

    kind: str


VariantT = TypeVar("VariantT", bound=Variant)


class Variants(Generic[VariantT]):
    """The kinds that a section may have: a discriminated union to which :meth:`add` adds members.

    Use it as ``Annotated[SerializeAsAny[Base], BeforeValidator(variants.validate)]``, so that a kind that was added
    after the spec's classes were made is known to them too.

    Args:
        base: Class of all the sections.
        members: Sections that are part of this project.
    """

    def __init__(self, base: type[VariantT], *members: type[VariantT]) -> None:
        self._base = base
        self._sections: dict[str, type[VariantT]] = {}
        for member in members:
            self.add(member)

    @property
    def base(self) -> type[VariantT]:
        """Class of all the sections."""
        return self._base

    @property
    def sections(self) -> dict[str, type[VariantT]]:
        """The sections by their kind."""
        return dict(self._sections)

    def add(self, section: type[VariantT]) -> type[VariantT]:
        """Adds a section; it replaces an earlier one of the same kind, as when its module is loaded again.

        Raises:
            TypeError: the section's ``kind`` has no default.
        """
        kind = section.model_fields["kind"].default
        if not isinstance(kind, str):
            raise TypeError(f'{section.__name__}: declare `kind: Literal["name"] = "name"`')
        self._sections[kind] = section
        return section

    def validate(self, value: Any, info: ValidationInfo) -> VariantT:
        """The section that a mapping with the key ``kind`` describes, or the name of a kind by itself.

        Raises:
            ValueError: the kind is absent or unknown, or its fields are wrong; names those that are known.
        """
        if isinstance(value, self._base):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict):
            raise ValueError(f"a kind, or a mapping with the key `kind`, is expected, found {kind_of(value)}")
        kind = value.get("kind")
        section = self._sections.get(kind) if isinstance(kind, str) else None
        if section is None:
            known = ", ".join(repr(name) for name in sorted(self._sections))
            near = difflib.get_close_matches(str(kind), self._sections, n=1)
            found = f"; found {kind!r}" if "kind" in value else ""
            raise ValueError(f"set `kind` to one of {known}{found}" + (f", did you mean {near[0]!r}?" if near else ""))
        try:
            return section.model_validate(value, context=info.context)
        except ValidationError as error:
            raise ValueError("; ".join(describe_problem(problem, section) for problem in error.errors())) from error


PartT = TypeVar("PartT")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[PartT]):
    build: Callable[..., PartT]
    takes_section: bool
    origin: str


class Registry(Generic[VariantT, PartT]):
    """Builders by kind, and the sections of the spec that go with them: one call makes a part known.

    Args:
        noun: What is built, for messages.
        variants: The spec's kinds, to which the sections of registered parts are added.
        error: Raised for a kind without a builder.
    """

    def __init__(self, noun: str, variants: Variants[VariantT], error: type[UserError]) -> None:
        self._noun, self._variants, self._error = noun, variants, error
        self._entries: dict[str, _Entry[PartT]] = {}

    def add(self, kind: str, build: Callable[..., PartT], section: type[VariantT] | None) -> None:
        """Makes a part known; an earlier one of the same name is replaced, as when its module is loaded again.

        Args:
            kind: Value of the key ``kind`` in the spec.
            build: Makes the part. It receives the arguments of :meth:`build` and, last, the section if there is one.
            section: The part's fields in the spec; without it the part has no fields but ``kind``.

        Raises:
            ValueError: ``kind`` is no name, belongs to another part, or is not that of ``section``.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
            raise ValueError(f"the {self._noun} {kind!r}: a kind starts with a letter and has only a-z, 0-9 and _")
        origin = f"{build.__module__}.{build.__qualname__}"
        known = self._entries.get(kind)
        if known is not None and known.origin != origin:
            raise ValueError(f"the {self._noun} {kind!r} of {origin} is already that of {known.origin}: choose another")
        if section is not None and section.model_fields["kind"].default != kind:
            raise ValueError(f"{section.__name__}.kind is not {kind!r}")
        only: Any = Literal[kind]
        self._variants.add(
            section
            or create_model(
                f"{kind}_{self._noun}", __base__=self._variants.base, __module__=build.__module__, kind=(only, kind)
            )
        )
        self._entries[kind] = _Entry(build, section is not None, origin)

    def build(self, section: VariantT, *arguments: Any) -> PartT:
        """The part that a section describes.

        Raises:
            UserError: of the registry's own class: nothing in this process is registered under the section's kind.
        """
        entry = self._entries.get(section.kind)
        if entry is None:
            raise self._error(
                f"no {self._noun} is registered under kind {section.kind!r}; registered: "
                f"{', '.join(sorted(self._entries))}. Install the package that it comes from here too."
            )
        return entry.build(*arguments, section) if entry.takes_section else entry.build(*arguments)
