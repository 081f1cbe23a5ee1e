"""Sections of the spec that come in several kinds, told apart by their field ``kind``, and open to further ones."""

import difflib
from typing import Any, Generic, TypeVar

from pydantic import ValidationError, ValidationInfo

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
        """The section that a mapping with the key ``kind`` describes.

        Raises:
            ValueError: the kind is absent or unknown, or its fields are wrong; says which are known.
        """
        if isinstance(value, self._base):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"a mapping with the key `kind` is expected, found {kind_of(value)}")
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
