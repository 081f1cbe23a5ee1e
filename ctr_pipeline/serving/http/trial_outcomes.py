"""What a service tells of the impressions of a canary: their scores, and what was reported of them later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.serving.history_lookup import Event, FoundHistory, Stored, StoreState
from ctr_pipeline.serving.http.request_history import RequestHistory
from ctr_pipeline.serving.release import Arm, Trial


class TrialOutcomes(Protocol):
    """Receives the impressions of a canary and their outcomes; it must neither wait nor raise."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the tasks whose outcomes are counted."""
        ...

    @property
    def pseudonym(self) -> Callable[[str], str]:
        """The deployment's hash of an id."""
        ...

    @property
    def now(self) -> Callable[[], int]:
        """Microseconds since 1970 UTC."""
        ...

    def scored(
        self,
        trial: Trial,
        arm: Arm,
        impression_ids: Sequence[str | int | None],
        probabilities: NDArray[np.floating[Any]],
    ) -> None:
        """N impressions were scored in an arm.

        Args:
            trial: The canary.
            arm: Whose scores were answered.
            impression_ids: [N] raw ids; None for candidates that have none.
            probabilities: [N, T]; it must not be changed afterwards.
        """

    def happened(self, events: Sequence[Event]) -> None:
        """Events were stored, of whatever impressions."""


@dataclass(frozen=True, slots=True)
class UnstoredEvents:
    """Takes events of a model without features that are made of them: nothing is stored, but a canary is judged by them."""

    kinds: tuple[str, ...]
    """Names of the tasks."""
    keys: tuple[str, ...] = ()
    identity: str = "unstored"

    def append_all(
        self,
        batches: Sequence[Sequence[Event]],
        now: int,  # noqa: ARG002
        places: Mapping[str, bytes | None] | None = None,  # noqa: ARG002
    ) -> list[Stored]:
        """Counts the events."""
        return [Stored(len(events), 0) for events in batches]

    def places(self, prefix: str) -> Mapping[str, bytes]:  # noqa: ARG002
        """None."""
        return {}


@dataclass(frozen=True, slots=True)
class _NoStore:
    inputs: dict[str, tuple[tuple[str, ...], ...]]

    def look_up(self, *_: Any) -> FoundHistory:
        raise AssertionError("it has no inputs")

    def refresh(self) -> None:
        """There is nothing in it."""

    def state(self, _: int) -> StoreState:
        return StoreState(snapshot=None, day=None, late=False, problem=None)


def events_alone(outcomes: TrialOutcomes) -> RequestHistory:
    """How the events of a model are read that has no feature of events."""
    return RequestHistory(_NoStore({}), {}, outcomes.pseudonym, outcomes.now, False, UnstoredEvents(outcomes.kinds))
