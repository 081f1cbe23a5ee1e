"""The models that a service has at hand, and which of them scores a request."""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np

from ctr_pipeline.serving.http.inference_protocol import INFERENCE_FIELDS, TENSOR_FIELDS
from ctr_pipeline.serving.http.pseudonym_features import hashed_values
from ctr_pipeline.serving.http.request_history import USER, RequestHistory
from ctr_pipeline.serving.http.request_json import Limits, RequestError
from ctr_pipeline.serving.http.request_scoring import Scored, ServedModel, score_request_on_device
from ctr_pipeline.serving.http.served_request import IMPRESSION
from ctr_pipeline.serving.release import Arm, CanaryGuard, Trial, TrialMode, in_canary
from ctr_pipeline.serving.request_encoding import TIME
from ctr_pipeline.serving.request_values import BundleError

LOG = logging.getLogger("ctr_pipeline.serving.http")

SCORE_FIELDS = ("shared", "candidates", "logits", "request_id")


class ArmCounts(Protocol):
    """Receives how the arms do."""

    def arm_scored(self, arm: Arm, seconds: float) -> None:
        """A request was scored in an arm."""

    def arm_failed(self, arm: Arm, kind: str) -> None:
        """An arm could not score a request that the champion could; ``kind`` is one of request, error, not_finite."""

    def shadow_differences(self, differences: Mapping[str, float]) -> None:
        """Largest absolute difference in logit between the arms over a request's candidates, by task."""


@dataclass(frozen=True, slots=True)
class ServedArms:
    """The champion, and the challenger while it is tried."""

    champion: ServedModel
    challenger: ServedModel | None = None
    trial: Trial | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    """Versions that the registry names and that are not served, with the reason."""
    other_inputs: frozenset[str] = frozenset()
    """Features that a request may have though a model does not know them, as another version does."""
    names: frozenset[str] = frozenset()
    """Fields of requests that a message may repeat."""
    champion_fields: frozenset[str] = frozenset()
    """What a request may hold for the champion; computed once, as every request asks for it."""
    challenger_fields: frozenset[str] = frozenset()
    """The same for the challenger."""

    @classmethod
    def of(
        cls,
        champion: ServedModel,
        challenger: ServedModel | None = None,
        trial: Trial | None = None,
        refused: Mapping[str, str] | None = None,
        other_inputs: frozenset[str] = frozenset(),
    ) -> Self:
        """The arms of two models; without a trial the champion answers everything."""
        own, others = frozenset(champion.fields), frozenset(challenger.fields if challenger else ())
        inputs = {*own, *others, *other_inputs}
        names = frozenset((*inputs, IMPRESSION, TIME, *SCORE_FIELDS, *INFERENCE_FIELDS, *TENSOR_FIELDS))
        return cls(champion, challenger, trial, refused or {}, frozenset(inputs), names, own, others)

    @property
    def canary_share(self) -> float:
        """Share of the users that the challenger answers; 0 without a canary."""
        return self.trial.share if self.trial is not None and self.trial.mode is TrialMode.CANARY else 0.0

    @property
    def event_histories(self) -> list[RequestHistory]:
        """The stores of the models that are made of events, each once; the champion's first."""
        found: dict[str, RequestHistory] = {}
        for model in (self.champion, self.challenger):
            history = None if model is None else model.history
            if history is not None and history.events is not None:
                found.setdefault(history.events.identity, history)
        return list(found.values())

    def answering(self, shared: Mapping[str, Any], body: bytes) -> Arm:
        """Who answers a request.

        Args:
            shared: Its shared features; one of them may be the user's id.
            body: The request, which decides where it names no user.
        """
        trial = self.trial
        if trial is None or self.challenger is None or trial.mode is not TrialMode.CANARY:
            return Arm.CHAMPION
        unit = user_of(self.champion, shared) or hashlib.blake2b(body, digest_size=16).hexdigest()
        return Arm.CHALLENGER if in_canary(unit, trial.id, trial.share) else Arm.CHAMPION

    def known_to(self, model: ServedModel, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """The columns without those that only another version knows."""
        known = self.champion_fields if model is self.champion else self.challenger_fields
        if columns.keys() <= known:
            return columns
        return {name: values for name, values in columns.items() if name in known or name not in self.other_inputs}


class ServedModels:
    """Holds the arms of a process; the requests that begin after a replacement see the new ones.

    Args:
        arms: The first ones.
        processes: Processes of the service.
        ended: Receives a trial that its guardrails end, and the reason.
    """

    def __init__(
        self, arms: ServedArms, *, processes: int = 1, ended: Callable[[Trial, str], None] | None = None
    ) -> None:
        self._processes, self._ended = processes, ended
        self._ended_trials: set[str] = set()
        self.guard: CanaryGuard | None = None
        self._guarded = ""
        self.current = arms
        self.replace(arms)

    @classmethod
    def of(cls, model: ServedModel) -> Self:
        """A champion alone."""
        return cls(ServedArms.of(model))

    def replace(self, arms: ServedArms) -> None:
        """Serves other arms from now on; a trial that was ended here stays ended."""
        if arms.trial is not None and arms.trial.id in self._ended_trials:
            arms = replace(arms, trial=None, challenger=None)
        if arms.trial is None:
            self.guard, self._guarded = None, ""
        elif arms.trial.id != self._guarded:
            self.guard, self._guarded = CanaryGuard(arms.trial.rules, self._processes), arms.trial.id
        self.current = arms

    def end_trial(self, reason: str, trial: Trial | None = None) -> None:
        """Ends the trial that runs: from now on the champion answers everything.

        Args:
            reason: Why.
            trial: Of which this was found; nothing happens where another one runs by now. None for the one that runs.
        """
        arms = self.current
        if arms.trial is None or (trial is not None and trial.id != arms.trial.id):
            return
        self._ended_trials.add(arms.trial.id)
        self.replace(replace(arms, refused={**arms.refused, arms.trial.version: reason}))
        if self._ended is not None:
            self._ended(arms.trial, reason)


class GuardedCounts:
    """Counts how the arms do, and ends a canary that its guardrails refuse.

    Args:
        counts: Receives the counts.
        models: Holds the guardrails.
    """

    def __init__(self, counts: ArmCounts, models: ServedModels) -> None:
        self._counts, self._models = counts, models

    def arm_scored(self, arm: Arm, seconds: float) -> None:
        """As :meth:`ArmCounts.arm_scored`."""
        self._counts.arm_scored(arm, seconds)
        guard = self._models.guard
        if guard is not None:
            guard.scored(arm, seconds)
            self._end_where_refused(guard)

    def arm_failed(self, arm: Arm, kind: str) -> None:
        """As :meth:`ArmCounts.arm_failed`."""
        self._counts.arm_failed(arm, kind)
        guard = self._models.guard
        if guard is not None and arm is Arm.CHALLENGER:
            guard.failed()
            self._end_where_refused(guard)

    def shadow_differences(self, differences: Mapping[str, float]) -> None:
        """As :meth:`ArmCounts.shadow_differences`."""
        self._counts.shadow_differences(differences)

    def _end_where_refused(self, guard: CanaryGuard) -> None:
        if guard.reason is not None:
            self._models.end_trial(guard.reason)


@dataclass(frozen=True, slots=True)
class ArmAnswer:
    """Scores of a request, and whose they are."""

    model: ServedModel
    arm: Arm
    found: Scored


async def score_in_arm(
    arms: ServedArms,
    shared: Mapping[str, Any],
    candidates: Mapping[str, Any],
    body: bytes,
    *,
    limits: Limits,
    clock: Callable[[], float],
    counts: ArmCounts,
) -> ArmAnswer:
    """Scores a request with the model of its arm.

    Where the challenger fails, the champion answers. It counts as a failure of the challenger only if the champion does
    not fail too.

    Args:
        arms: The models.
        shared: As for :func:`~ctr_pipeline.serving.http.request_scoring.score_request`.
        candidates: As there.
        body: The request.
        limits: What a request may hold.
        clock: Seconds that pass.
        counts: Receives how the arms do.

    Raises:
        RequestError: the request cannot be used.
    """

    def scored(model: ServedModel) -> Awaitable[Scored]:
        return score_request_on_device(model, arms.known_to(model, shared), arms.known_to(model, candidates), limits)

    failure, challenger = None, arms.challenger
    if challenger is not None and arms.answering(shared, body) is Arm.CHALLENGER:
        found, failure, seconds = await _attempt(scored(challenger), clock)
        if found is not None:
            counts.arm_scored(Arm.CHALLENGER, seconds)
            return ArmAnswer(challenger, Arm.CHALLENGER, found)
    started = clock()
    answer = ArmAnswer(arms.champion, Arm.CHAMPION, await scored(arms.champion))
    counts.arm_scored(Arm.CHAMPION, clock() - started)
    if failure is not None:
        counts.arm_failed(Arm.CHALLENGER, failure)
    return answer


async def score_in_shadow(
    arms: ServedArms,
    answer: ArmAnswer,
    shared: Mapping[str, Any],
    candidates: Mapping[str, Any],
    *,
    limits: Limits,
    clock: Callable[[], float],
    counts: ArmCounts,
) -> Scored | None:
    """Scores an answered request with the challenger too, and counts how it differs.

    Args:
        arms: The models, with a trial in the shadow.
        answer: What was answered.
        shared: As for :func:`~ctr_pipeline.serving.http.request_scoring.score_request`.
        candidates: As there.
        limits: What a request may hold.
        clock: Seconds that pass.
        counts: Receives how the arms do.

    Returns:
        The challenger's scores; None where it failed.
    """
    model = arms.challenger
    assert model is not None, "a trial has a challenger"
    own = arms.known_to(model, shared), arms.known_to(model, candidates)
    found, failure, seconds = await _attempt(score_request_on_device(model, *own, limits), clock)
    if found is None:
        counts.arm_failed(Arm.SHADOW, failure or "")
        return None
    counts.arm_scored(Arm.SHADOW, seconds)
    if len(found.scores.logits):
        differences = np.abs(found.scores.logits - answer.found.scores.logits).max(axis=0)
        counts.shadow_differences(dict(zip(model.bundle.tasks, differences.tolist(), strict=True)))
    return found


def user_of(model: ServedModel, shared: Mapping[str, Any]) -> str | None:
    """The pseudonym of the user that a request names, as a feature or for the store; None where it names none."""
    places = [(model.user, model.hashed.get(model.user, frozenset()), model.pseudonym)] if model.user else []
    if model.history is not None:
        history = model.history
        keys = (source for source in history.sources.values() if source.hashed and USER in source.fields)
        places += [(name, source.nulls, history.pseudonym) for source in keys for name in source.fields]
    for name, nulls, pseudonym in places:
        if pseudonym is None or shared.get(name) is None:
            continue
        try:
            [found] = hashed_values([shared[name]], nulls, pseudonym, name)
        except BundleError:
            continue
        if isinstance(found, str):
            return found
    return None


async def _attempt(score: Awaitable[Scored], clock: Callable[[], float]) -> tuple[Scored | None, str | None, float]:
    """Scores of the challenger or the kind of its failure, and seconds."""
    started = clock()
    try:
        found = await score
    except RequestError:
        return None, "request", clock() - started
    except Exception as error:
        # Its message may hold a sender's values.
        LOG.error("the challenger failed: %s", type(error).__name__)
        return None, "error", clock() - started
    if not (np.isfinite(found.scores.logits).all() and np.isfinite(found.scores.probabilities).all()):
        return None, "not_finite", clock() - started
    return found, None, clock() - started
