"""What the store of events keeps for sequences: each impression or outcome with its item, the latest at the end.

Names order what is stored as :func:`~ctr_pipeline.features.sequences.sequence_values` does, so that a look-up reads the
latest ones alone.
"""

import struct
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import HistorySequence, is_exact

_TIME = struct.Struct(">q")
_TEXT = 16
"""Bytes of an impression's id that decide between events of one microsecond: half of a pseudonym."""

_INVERTED = bytes(255 - byte for byte in range(256))


def exact_sequences(spec: Spec) -> tuple[HistorySequence, ...]:
    """The sequences that events make: those with ``exact``, where all tasks are of outcome events."""
    if any(task.label.event is None for task in spec.tasks):
        return ()
    return tuple(f for f in spec.features.sequences if is_exact(f))


def listed_name(place: int, key: bytes, moment: int, impression: str, kind: int) -> bytes:
    """Name of an event of a sequence: a later one has a greater name.

    Args:
        place: Place of the sequence among those of the store.
        key: Digest of the key.
        moment: When it happened, microseconds since 1970 UTC.
        impression: Id of its impression; of one instant, the smaller is the later.
        kind: Its place in ``events`` of the sequence; of one impression and instant, the greater is the later.
    """
    text = impression.encode()[:_TEXT].ljust(_TEXT, b"\0")
    return bytes((place,)) + key + _TIME.pack(moment) + text.translate(_INVERTED) + bytes((kind,))


def listed_value(known: int, item: str) -> bytes:
    """What is stored under that name: when it became known, microseconds since 1970 UTC, and the item."""
    return _TIME.pack(known) + item.encode()


def latest_events(
    cursor: Any, place: int, key: bytes, time: int, feature: HistorySequence
) -> tuple[list[str | None], list[str | None], list[float | None]]:
    """Items, kinds and instants of what happened in [time - days, time) and was known before it, the latest first.

    Args:
        cursor: Of the table that holds the events.
        place: Place of the sequence.
        key: Digest of the key.
        time: The instant of the request, microseconds since 1970 UTC.
        feature: The sequence.
    """
    head = bytes((place,)) + key
    items: list[str | None] = []
    kinds: list[str | None] = []
    instants: list[float | None] = []
    for name, value in _before(cursor, head, time):
        [moment] = _TIME.unpack_from(name, len(head))
        if moment < time - feature.days * DAY_US:
            break
        # One that is known late may lie anywhere among those that were known in time.
        if _TIME.unpack_from(value)[0] < time:
            items.append(value[_TIME.size :].decode())
            kinds.append(None if feature.events is None else feature.events[name[-1]])
            instants.append(float(moment))
            if len(items) == feature.length:
                break
    return items, kinds, instants


def with_item(cursor: Any, item: str) -> list[bytes]:
    """Names of all events that list ``item``."""
    return [name for name, value in cursor if value[_TIME.size :] == item.encode()]


def _before(cursor: Any, head: bytes, time: int) -> Iterator[tuple[bytes, bytes]]:
    """The events of ``head`` that happened before ``time``, backwards."""
    # Stands at the first one that is not before, or after all.
    there = cursor.set_range(head + _TIME.pack(time))
    if not (cursor.prev() if there else cursor.last()):
        return
    yield from takewhile(lambda entry: entry[0].startswith(head), cursor.iterprev())
