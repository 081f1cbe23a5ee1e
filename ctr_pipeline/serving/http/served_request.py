"""What is known of an answered request beside its answer: for the log from which its inputs can be checked later."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.serving.bundle import Scores
from ctr_pipeline.serving.http.request_json import RequestError, kind_of
from ctr_pipeline.serving.release import Arm
from ctr_pipeline.serving.request_encoding import TIME
from ctr_pipeline.serving.request_values import BundleError, instant

IMPRESSION = "impression_id"
"""In a request: the id under which a candidate's impression will be in the impression log. No feature is called so."""

_LONGEST_ID = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequest:
    """The inputs and scores of one request of N candidates.

    The arrays must not be changed after they were handed on.
    """

    request_id: str | None
    """As the sender gave it; None where one is to be made."""
    impression_ids: Sequence[str | int | None] | None
    """[N] raw ids; None where the request has none."""
    ts: int | Sequence[int | None] | None
    """Time of the impressions as the request gives it, microseconds, or one a candidate; None for that of its arrival."""
    arm: Arm
    """Whose scores they are."""
    model_sha: str
    """SHA-256 of the bundle's manifest."""
    snapshot: str
    """Id of the snapshot of history features that was looked up; empty where there was none."""
    numeric: NDArray[np.float32]
    """[N, D] as the model got them."""
    ids: NDArray[np.integer[Any]]
    """[N, F] embedding rows as the model got them."""
    scores: Scores
    """Of the N candidates."""


class RequestLog(Protocol):
    """Where served requests go; it must neither wait nor raise."""

    def offer(self, request: ServedRequest) -> None:
        """Takes a request, or leaves it."""


@dataclass(frozen=True, slots=True)
class LogFields:
    """What a request says for the log alone."""

    impression_ids: Sequence[str | int | None] | None
    ts: int | Sequence[int | None] | None


def take_log_fields(
    inputs: Collection[str], shared: dict[str, Any], candidates: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], LogFields]:
    """The features of a request without what is for the log alone, and that.

    The time stays where the model makes features of it.

    Args:
        inputs: Names of the features that the models know.
        shared: Features that all candidates have.
        candidates: By feature a list with a value for each candidate.

    Raises:
        RequestError: a time is no time, or an id is none.
    """
    for_log = {name for name in (IMPRESSION, TIME) if name not in inputs}
    columns = [values for name, values in candidates.items() if name not in for_log and isinstance(values, list)]
    rows = len(columns[0]) if columns else 1
    impressions = _impressions(shared, candidates, rows) if IMPRESSION in for_log else None
    ts = _times(shared, candidates, rows)
    if not for_log.isdisjoint(shared):
        shared = {name: value for name, value in shared.items() if name not in for_log}
    if not for_log.isdisjoint(candidates):
        candidates = {name: values for name, values in candidates.items() if name not in for_log}
    return shared, candidates, LogFields(impressions, ts)


def times_used(ts: int | Sequence[int | None] | None, now: int | None) -> int | Sequence[int | None] | None:
    """The times of a request, with the instant ``now`` that was taken for those that it does not have."""
    if ts is None or isinstance(ts, int) or now is None:
        return now if ts is None else ts
    return [now if one is None else one for one in ts]


def request_id_of(content: Mapping[str, Any], field: str) -> str | None:
    """The id that a request gives itself; None without.

    Raises:
        RequestError: it is no short text.
    """
    found = content.get(field)
    if found is None:
        return None
    if not isinstance(found, str) or not 0 < len(found) <= _LONGEST_ID:
        raise RequestError(
            f"`{field}`: expected a text of 1 to {_LONGEST_ID} characters; found "
            f"{f'one of {len(found)}' if isinstance(found, str) else kind_of(found)}",
            field,
        )
    return found


def _impressions(shared: Mapping[str, Any], candidates: Mapping[str, Any], rows: int) -> list[str | int | None] | None:
    if IMPRESSION in shared:
        if candidates:
            raise RequestError(f"`{IMPRESSION}` belongs into `candidates`: each of them has its own", IMPRESSION)
        found = [shared[IMPRESSION]]
    elif IMPRESSION in candidates:
        found = _column(candidates, IMPRESSION, rows)
    else:
        return None
    for value in found:
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise RequestError(
                f"candidates: `{IMPRESSION}`: expected texts or whole numbers; found {kind_of(value)}", IMPRESSION
            )
        if isinstance(value, str) and len(value) > _LONGEST_ID:
            raise RequestError(f"candidates: `{IMPRESSION}`: an id has more than {_LONGEST_ID} characters", IMPRESSION)
    return found


def _times(shared: Mapping[str, Any], candidates: Mapping[str, Any], rows: int) -> int | list[int | None] | None:
    try:
        if TIME in shared:
            return instant(shared[TIME], f"`{TIME}`")
        if TIME in candidates:
            return [instant(value, f"candidates: `{TIME}`") for value in _column(candidates, TIME, rows)]
    except BundleError as error:
        raise RequestError(str(error), TIME) from None
    return None


def _column(candidates: Mapping[str, Any], name: str, rows: int) -> list[Any]:
    found = candidates[name]
    if not isinstance(found, list):
        raise RequestError(f"candidates: `{name}`: expected a list; found {kind_of(found)}", name)
    if len(found) != rows:
        raise RequestError(
            f"candidates: `{name}` has {len(found)} values; expected {rows}, one for each candidate", name
        )
    return found
