"""Fields of objects: `a.b` names the field `b` of the struct (or JSON object) `a`, unless a column is called so itself."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ctr_pipeline.sources.errors import listed


def stored_column(name: str, schema: Mapping[str, pl.DataType]) -> tuple[pl.Expr, pl.DataType] | None:
    """The column or field ``name`` of a file with ``schema``, and its type; None where there is none."""
    if name in schema:
        return pl.col(name), schema[name]
    for head, tail in _splits(name):
        kind = schema.get(head)
        found = _field(pl.col(head), kind, tail) if isinstance(kind, pl.Struct) else None
        if found is not None:
            return found
    return None


def _field(parent: pl.Expr, kind: pl.Struct, name: str) -> tuple[pl.Expr, pl.DataType] | None:
    fields = _fields(kind)
    if name in fields:
        return parent.struct.field(name), fields[name]
    for head, tail in _splits(name):
        inner = fields.get(head)
        found = _field(parent.struct.field(head), inner, tail) if isinstance(inner, pl.Struct) else None
        if found is not None:
            return found
    return None


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Each way to take a name for a field of an object, the longest object first."""
    parts = name.split(".")
    return ((".".join(parts[:at]), ".".join(parts[at:])) for at in range(len(parts) - 1, 0, -1))


def _fields(kind: pl.Struct) -> dict[str, pl.DataType]:
    # polars keeps a field's type as a class where it has no parameters.
    return {field.name: field.dtype if isinstance(field.dtype, pl.DataType) else field.dtype() for field in kind.fields}


def as_lists(value: pl.Expr, kind: pl.DataType, separator: str | None) -> tuple[pl.Expr, pl.DataType]:
    """A column of lists as polars lists them, and its type.

    Args:
        value: The column.
        kind: Its type; of a type that holds no lists, it stays as it is.
        separator: What stands between the values of a list that is written as a text.
    """
    if kind == pl.String and separator is not None:
        # Runs of blanks are one separator, as people write them.
        parts = value.str.strip_chars().str.replace_all(r"\s+", " ") if separator.isspace() else value
        part = pl.element().str.strip_chars()
        known = pl.when(part != "").then(part)
        return parts.str.split(" " if separator.isspace() else separator).list.eval(known), pl.List(pl.String)
    if isinstance(kind, pl.Array):
        value, kind = value.arr.to_list(), pl.List(kind.inner)
    if isinstance(kind, pl.List) and kind.inner in (pl.Categorical, pl.Enum):
        value, kind = value.cast(pl.List(pl.String)), pl.List(pl.String)
    return value, kind


def schema_paths(schema: Mapping[str, pl.DataType]) -> list[str]:
    """The columns of a file, then the fields of its structs as `a.b`."""
    return _once(schema, (path for name, kind in schema.items() for path in _struct_paths(name, kind)))


def _struct_paths(name: str, kind: pl.DataType) -> Iterator[str]:
    if isinstance(kind, pl.Struct):
        for field, inner in _fields(kind).items():
            yield f"{name}.{field}"
            yield from _struct_paths(f"{name}.{field}", inner)


def object_paths(content: Mapping[str, Any]) -> list[str]:
    """The keys of a JSON object, then the fields of the objects that they hold as `a.b`."""
    return _once(content, (path for name, value in content.items() for path in _value_paths(name, value)))


def value_at(content: Mapping[str, Any], name: str) -> Any:
    """What a JSON object holds at a key, or at the field `a.b`; None where there is nothing."""
    if name in content or "." not in name:
        return content.get(name)
    head, _, tail = name.partition(".")
    inner = content.get(head)
    return value_at(inner, tail) if isinstance(inner, dict) else None


def _value_paths(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{name}.{key}"
            yield from _value_paths(f"{name}.{key}", inner)


def _once(columns: Collection[str], paths: Iterator[str]) -> list[str]:
    return [*columns, *dict.fromkeys(path for path in paths if path not in columns)]


def fields_beside(name: str, found: Sequence[str]) -> str:
    """For a missing `a.b`, which fields `a` has, as a sentence; empty where no ``found`` column is an object `a`."""
    for head, _ in _splits(name):
        fields = [path.removeprefix(f"{head}.") for path in found if path.startswith(f"{head}.")]
        if fields:
            return f" `{head}` has the fields {listed(fields)}."
    return ""


@dataclass(frozen=True, slots=True)
class Keys:
    """How the wanted columns of JSON objects are decoded."""

    decoded: pl.Struct
    """What polars decodes of a line."""
    columns: tuple[pl.Expr, ...]
    """The wanted columns, of what was decoded."""
    rule: str
    """What a line holds in these keys."""


_PLAIN = "a key that the spec names holds one text, number or boolean; in this line one holds a list or an object"
_OTHER = (
    "a key that the spec names holds one text, number or boolean, a list where a feature has `list` or `width`, and an "
    "object where the spec names a field of it; in this line one holds something else"
)


def wanted_keys(columns: Sequence[str], lists: Collection[str], literal: Collection[str]) -> Keys:
    """How ``columns`` are decoded.

    Args:
        columns: Keys of the objects, or fields of the objects that these hold.
        lists: Those of them that hold lists.
        literal: Keys with a point in them that the file is known to have.
    """
    kinds = {name: pl.List(pl.String) if name in lists else pl.String() for name in columns}
    tree: dict[str, Any] = {**kinds}
    exprs = []
    for name in columns:
        path = name.split(".")
        nested = None
        if name not in literal and _insert(tree, path, kinds[name]):
            nested = pl.col(path[0])
            for part in path[1:]:
                nested = nested.struct.field(part)
        exprs.append(pl.col(name) if nested is None else pl.coalesce(pl.col(name), nested).alias(name))
    plain = not lists and len(tree) == len(columns)
    return Keys(_struct(tree), tuple(exprs), _PLAIN if plain else _OTHER)


def _insert(tree: dict[str, Any], path: Sequence[str], kind: pl.DataType) -> bool:
    """Adds a field of an object; False where there is no object in the path, or a key of it is wanted as a value."""
    if len(path) < 2 or not all(path):
        return False
    place = tree
    for part in path[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            return False
    return bool(place.setdefault(path[-1], kind) == kind)


def _struct(tree: Mapping[str, Any]) -> pl.Struct:
    return pl.Struct({name: _struct(kind) if isinstance(kind, dict) else kind for name, kind in tree.items()})
