"""``POST /events``: what happened since, for features that look back from the request itself."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctr_pipeline.serving.history_lookup import IMPRESSION, Event, EventSink, FullError, Stored
from ctr_pipeline.serving.http.pseudonym_features import hashed_values
from ctr_pipeline.serving.http.request_history import RequestHistory
from ctr_pipeline.serving.http.request_json import RequestError, kind_of, refuse_other_fields
from ctr_pipeline.serving.request_values import BundleError, instant

EVENT_FIELDS = ("event", "impression_id", "ts", "keys")
MOST_EVENTS = 1000
"""Events of a request."""

MOST_AHEAD = 300_000_000
"""Microseconds by which the clock of a sender may be ahead."""

_NO_NULLS: frozenset[str] = frozenset()


def parsed_events(content: Mapping[str, Any], history: RequestHistory, sink: EventSink, now: int) -> list[Event]:
    """The events of a request, their ids hashed.

    Args:
        content: ``events``: a list of objects with ``event`` (``impression`` or a task), ``impression_id``, ``ts`` and, of an
            impression, its ``keys``.
        history: How keys are read.
        sink: Which events there are.
        now: When they arrived, microseconds since 1970 UTC.

    Raises:
        RequestError: names the event's number and field, never a value.
    """
    refuse_other_fields(content, ("events",))
    events = content.get("events")
    if not isinstance(events, list):
        raise RequestError(f"`events`: expected a list of objects; found {kind_of(events)}", "events")
    if len(events) > MOST_EVENTS:
        raise RequestError(f"{len(events)} events; expected at most {MOST_EVENTS}", "events", status=413, kind="limit")
    return [parsed_event(one, f"event {at}", history, sink, now) for at, one in enumerate(events)]


def parsed_event(content: Any, where: str, history: RequestHistory, sink: EventSink, now: int) -> Event:
    """One event, its ids hashed; ``where`` is what it is called in a message, all else as for :func:`parsed_events`."""
    if not isinstance(content, dict):
        raise RequestError(f"{where}: expected an object; found {kind_of(content)}", "events")
    refuse_other_fields(content, EVENT_FIELDS, where)
    kind, name, keys = content.get("event"), content.get("impression_id"), content.get("keys", {})
    if kind != IMPRESSION and kind not in sink.kinds:
        raise RequestError(f"{where}: `event`: expected one of {', '.join((IMPRESSION, *sink.kinds))}", "event")
    if not isinstance(keys, dict) or (keys and kind != IMPRESSION):
        raise RequestError(f"{where}: `keys`: expected an object, of an impression alone", "keys")
    try:
        ts = instant(content.get("ts"), f"{where}: `ts`")
    except BundleError as error:
        raise RequestError(str(error), "ts") from None
    if ts is None or ts > now + MOST_AHEAD:
        raise RequestError(f"{where}: `ts`: expected the time of the event, which is not in the future", "ts")
    fields = {name for key in sink.keys for name in history.sources[key].fields}
    if sink.keys and not keys.keys() <= fields:
        raise RequestError(f"{where}: `keys`: expected some of {', '.join(sorted(fields))}; found another one", "keys")
    assert history.pseudonym is not None, "ids of impressions are always hashed"
    try:
        [impression] = hashed_values([name], _NO_NULLS, history.pseudonym, "`impression_id`")
        found = {key: history.key_text(key, keys, ts) for key in sink.keys} if kind == IMPRESSION else {}
    except BundleError as error:
        message = f"{where}: {str(error).removeprefix('row 0: ')}"
        raise RequestError(message, "keys" if "feature" in message else "impression_id") from None
    if not isinstance(impression, str):
        raise RequestError(f"{where}: `impression_id`: expected the id of the impression", "impression_id")
    return Event(str(kind), impression, ts, now, found)


@dataclass(slots=True)
class _Waiting:
    events: Sequence[Event]
    done: "asyncio.Future[Stored]"


class EventWriter:
    """Stores the events of requests that arrive together in one commit, beside the loop that scores.

    Args:
        sink: Where to.
        now: Microseconds since 1970 UTC.
    """

    def __init__(self, sink: EventSink, now: Callable[[], int]) -> None:
        self.sink, self._now = sink, now
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def store(self, events: Sequence[Event]) -> Stored:
        """Returns once the events are on disk.

        Raises:
            RequestError: there is no room; status 503.
        """
        waiting = _Waiting(events, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._task is None:
            self._task = asyncio.create_task(self._commit())
        return await waiting.done

    async def _commit(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting, []
                try:
                    batches = [one.events for one in together]
                    stored = await asyncio.to_thread(self.sink.append_all, batches, self._now())
                except Exception as error:
                    failure = _refusal(error)
                    for one in together:
                        if not one.done.done():
                            one.done.set_exception(failure)
                else:
                    for one, found in zip(together, stored, strict=True):
                        if not one.done.done():
                            one.done.set_result(found)
        finally:
            self._task = None


def _refusal(error: Exception) -> Exception:
    if isinstance(error, FullError):
        return RequestError("there is no room for events; none of them was stored", "events", status=503, kind="full")
    return error
