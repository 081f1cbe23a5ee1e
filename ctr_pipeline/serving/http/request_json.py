"""From the bytes of a request to its JSON, within limits."""

import difflib
import json
import re
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

JSON_TYPE = "application/json"

LONGEST_NAME = 100
"""A longer name of a field is not repeated in a message."""


_WORDS = re.compile(r"[A-Za-z]+(_[A-Za-z]+)*")

_NEARLY = 0.8
"""Similarity of a misspelt name to the right one, as difflib has it."""

_NESTED = frozenset((dict, list))


class RequestError(Exception):
    """A request that is not answered with scores.

    Args:
        message: What was found and what was expected, for the sender; never a value of a feature.
        field: The field of the request that it is about.
        status: HTTP status, 4xx or 503.
        kind: What the metrics count it as.
    """

    def __init__(self, message: str, field: str | None = None, *, status: int = 400, kind: str = "field") -> None:
        super().__init__(message)
        self.message, self.field, self.status, self.kind = message, field, status, kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request, and all of them at once, may take."""

    body_bytes: int = 4 * 2**20
    """Size of a body. It may hold a value for each 8 bytes of that, and a list or an object for each 64."""
    candidates: int = 5000
    """Candidates of a request."""
    list_length: int = 1000
    """Values of a feature that holds lists."""
    fields: int = 10_000
    """Fields of a body, in all its objects: each takes time, while other requests wait."""
    body_seconds: float = 5.0
    """Time until the whole body has arrived."""
    at_once: int = 64
    """Requests that are read or scored in one process at once; further ones are told to come again."""

    @property
    def values(self) -> int:
        """Values of a body, in all its lists and objects."""
        return self.body_bytes // 8


def refuse_type(headers: Mapping[str, str]) -> None:
    """Refuses a body that does not declare itself as plain JSON.

    Raises:
        RequestError: status 415.
    """
    kind, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != JSON_TYPE or charset not in ("", "utf-8", "utf8"):
        raise RequestError(f"expected Content-Type: {JSON_TYPE}, in UTF-8", "Content-Type", status=415, kind="type")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("the body is compressed; send it as it is", "Content-Encoding", status=415, kind="type")
    if "inference-header-content-length" in headers:
        raise RequestError(
            "the binary extension of the protocol is not read; send the tensors as JSON",
            "Inference-Header-Content-Length",
            status=415,
            kind="type",
        )


async def read_body(headers: Mapping[str, str], chunks: AsyncIterator[bytes], most: int) -> bytes:
    """The whole body of at most ``most`` bytes.

    Raises:
        RequestError: it is larger; status 413. What is left of it is not read.
    """
    too_large = RequestError(f"the body has more than {most} bytes", status=413, kind="limit")
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > most):
        raise too_large
    parts, size = [], 0
    async for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise too_large
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parsed_object(body: bytes, names: Collection[str], most_fields: int, most_values: int) -> dict[str, Any]:
    """The JSON object that a body is.

    Args:
        body: The body.
        names: Fields that a message may repeat. Any other may stand inside a value, and be an id.
        most_fields: Most fields of all its objects.
        most_values: Most values, in all its lists and objects; of these themselves an eighth of that.

    Raises:
        RequestError: it is no JSON, holds NaN or Infinity, a key twice or too many of them, or too many values; or it is no
            object.
    """
    _refuse_many_values(body, most_fields, most_values)
    try:
        content = orjson.loads(body)
    except (orjson.JSONDecodeError, RecursionError) as error:
        # Its message may repeat a part of the body.
        place = f" (line {error.lineno}, column {error.colno})" if isinstance(error, orjson.JSONDecodeError) else ""
        raise RequestError(
            f"the body is no JSON in UTF-8{place}; NaN and Infinity are none, write null", kind="json"
        ) from None
    # As many keys as colons: none was given twice. Where a text has a colon, the slow way decides.
    try:
        keys = _keys(content, most_fields)
        if keys > most_fields:
            raise RequestError(f"the body has more than {most_fields} fields", status=413, kind="limit")
        if body.count(b":") != keys:
            _refuse_double_keys(body, names)
    except RecursionError:
        raise RequestError("the body is nested too deeply", kind="json") from None
    if not isinstance(content, dict):
        raise RequestError(f"expected a JSON object; found {kind_of(content)}", kind="json")
    return content


def kind_of(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def shown_name(name: str) -> str:
    """A name of the sender as a message repeats it."""
    return repr(name) if len(name) <= LONGEST_NAME else f"with a name of {len(name)} characters"


def may_be_id(name: str, known: Collection[str]) -> bool:
    """Whether an id may have been put in the place of a name, so that it is not repeated to anybody.

    It may not where the name is known, or nearly (it is misspelt, or another model's), or consists of letters and underscores.
    """
    if name in known or _WORDS.fullmatch(name):
        return False
    return not difflib.get_close_matches(name[:LONGEST_NAME], known, n=1, cutoff=_NEARLY)


def refuse_ids_as_names(given: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """Refuses names that no model knows and that may be ids; others are refused by their names where they are used.

    Args:
        given: Features of a request.
        known: What requests may hold.
        where: What holds them.

    Raises:
        RequestError: names the place.
    """
    if known.issuperset(given):
        return
    for at, name in enumerate(given):
        if may_be_id(name, known):
            raise RequestError(
                f"{where}: feature {at} has a name that the model does not know, and that is not repeated here as it may "
                f"be an id; expected some of {', '.join(sorted(known))}",
                where,
            )


def refuse_other_fields(content: Mapping[str, Any], known: tuple[str, ...], where: str = "the request") -> None:
    """Refuses fields that have no meaning here, so that a misspelt one is not taken for an absent one.

    Raises:
        RequestError: names the first.
    """
    for name in content:
        if may_be_id(name, known):
            raise RequestError(
                f"{where} has a field with a name that is not repeated here, as it may be an id; expected {', '.join(known)}"
            )
        if name not in known:
            raise RequestError(
                f"{where} has a field {shown_name(name)}; expected {', '.join(known)}", name[:LONGEST_NAME]
            )


def _refuse_many_values(body: bytes, most_fields: int, most: int) -> None:
    """Refuses a body whose values take long to be read, while other requests wait, before any of them is."""
    # Those inside texts count too: so many commas and brackets are in no text of a request.
    for found, allowed, what in (
        (body.count(b'":'), most_fields, "fields"),
        (body.count(b","), most, "values"),
        (body.count(b"[") + body.count(b"{"), most // 8, "lists and objects"),
    ):
        if found > allowed:
            raise RequestError(f"the body has more than {allowed} {what}", status=413, kind="limit")


def _keys(content: Any, most: int) -> int:
    """Number of keys, in lists of plain values not looked for; more than ``most`` are not counted to the end."""
    count, parts = 0, content
    if isinstance(content, dict):
        count, parts = len(content), content.values()
    elif not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return 0
    for part in parts:
        if count > most:
            break
        if type(part) in _NESTED:
            count += _keys(part, most - count)
    return count


def _refuse_double_keys(body: bytes, names: Collection[str]) -> None:
    def checked(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for name, _ in pairs:
            if name in seen:
                field = name if name in names else None
                raise RequestError(
                    f"the field {field!r} is there twice" if field else "a field is there twice", field, kind="json"
                )
            seen.add(name)

    try:
        json.loads(body, object_pairs_hook=checked)
    except ValueError:
        # Python reads no whole number of more than some thousand digits.
        raise RequestError("the body is no JSON that is read here: a number is too long", kind="json") from None
