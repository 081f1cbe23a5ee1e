"""A request of one user and many candidates: checked, hashed, encoded and scored."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.layout import UNKNOWN_ROW
from ctr_pipeline.serving.bundle import Bundle, Scores
from ctr_pipeline.serving.candidate_encoding import CandidateEncoder
from ctr_pipeline.serving.http.pseudonym_features import hashed_columns, pseudonym_features
from ctr_pipeline.serving.http.request_history import FilledHistory, RequestHistory
from ctr_pipeline.serving.http.request_json import LONGEST_NAME, Limits, RequestError, kind_of
from ctr_pipeline.serving.ranking_score import RankingScore, bid_column
from ctr_pipeline.serving.request_inputs import RequestInputs
from ctr_pipeline.serving.request_values import BundleError
from ctr_pipeline.spec import parse_spec
from ctr_pipeline.spec.ranking import RANKING_SCORE

_EXACT = 2**53

_INEXACT = frozenset((float, list))
"""Types of values that may be, or hold, a number that stands for several whole numbers."""


class RequestBatches(Protocol):
    """Scores requests on a device, several at a time."""

    async def scores(self, inputs: RequestInputs) -> Scores:
        """The scores of a request of N candidates."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An opened bundle and what its requests need."""

    bundle: Bundle
    encoder: CandidateEncoder
    pseudonym: Callable[[str], str] | None
    """The deployment's hash of an id; None only where the model has no feature that is hashed."""
    hashed: Mapping[str, frozenset[str]]
    """As :func:`~ctr_pipeline.serving.http.pseudonym_features.pseudonym_features`, of the model's inputs."""
    spec_text: str
    """The spec that the model was built from."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else is known: the version in the registry, the day of the data."""
    user: str | None = None
    """The feature that holds the user's id; None without one."""
    ranking: RankingScore | None = None
    """What candidates are ranked by; None where the spec declares nothing."""
    history: RequestHistory | None = None
    """Where the features of the past come from that a request does not give; None where it must give them."""
    batches: RequestBatches | None = None
    """What scores on another device; None where the thread of the request does."""

    @classmethod
    def of(cls, bundle: Bundle, pseudonym: Callable[[str], str] | None, facts: Mapping[str, str] | None = None) -> Self:
        """The model of a bundle.

        Raises:
            BundleError: its ids are hashed and there is no hash.
        """
        path = bundle.directory / "spec.yaml"
        text = path.read_text(encoding="utf-8")
        spec = parse_spec(text, where=str(path))
        every = pseudonym_features(spec)
        hashed = {name: nulls for name, nulls in every.items() if name in bundle.inputs}
        if hashed and pseudonym is None:
            raise BundleError(f"{bundle.directory}: {', '.join(hashed)} are hashed, and there is no key for that")
        ids = (feature.name for feature, column in spec.features_of() if column == spec.impression.user)
        user = next((name for name in ids if name in hashed), None) if spec.impression.user else None
        terms = spec.serving.score
        ranking = None if terms is None else RankingScore.of(terms, bundle.tasks)
        return cls(bundle, bundle.request_encoder(), pseudonym, hashed, text, facts or {}, user, ranking)

    @property
    def fields(self) -> Collection[str]:
        """What a request may hold: features, bids that are none, and what is for the store alone."""
        return self.bundle.inputs.keys() | self.bids | (self.history.fields if self.history is not None else set())

    @property
    def bids(self) -> frozenset[str]:
        """Numbers of the request that the ranking score is multiplied with."""
        return frozenset(() if self.ranking is None else self.ranking.bids)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what is returned for each candidate."""
        return (*self.bundle.tasks, *([] if self.ranking is None else [RANKING_SCORE]))

    def unknown_ids(self, inputs: RequestInputs) -> dict[str, int]:
        """Number of values that the vocabulary does not hold, by feature that has such values; a shared one counts once."""
        counts: dict[str, int] = {}
        for ids, names in zip((inputs.shared_ids[:, None], inputs.ids), self.encoder.id_features, strict=True):
            # As a list: of a request of one row numpy's comparison would take longer.
            flat, width = ids.ravel().tolist(), len(names)
            if UNKNOWN_ROW in flat:
                for at, name in enumerate(names):
                    if count := flat[at::width].count(UNKNOWN_ROW):
                        counts[name] = counts.get(name, 0) + count
        return counts


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a request, how many of its ids are unknown by feature, what the model got, and what was looked up."""

    scores: Scores
    unknown: Mapping[str, int]
    inputs: RequestInputs
    ranking: NDArray[np.float64] | None = None
    """[N] ranking scores, NaN where a bid is missing; None where the spec declares none."""
    filled: FilledHistory = field(default_factory=FilledHistory)


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request that is ready to be scored."""

    inputs: RequestInputs
    bids: Mapping[str, NDArray[np.float64]]
    """[N] bids by name."""
    filled: FilledHistory


def score_request(
    model: ServedModel, shared: Mapping[str, Any], candidates: Mapping[str, Any], limits: Limits
) -> Scored:
    """Scores N candidates in the calling thread.

    Args:
        model: The model.
        shared: As for :func:`encoded_request`.
        candidates: As there.
        limits: What a request may hold.

    Raises:
        RequestError: names the feature that cannot be used.
    """
    encoded = encoded_request(model, shared, candidates, limits)
    return _scored(model, encoded, model.bundle.score_inputs(encoded.inputs))


async def score_request_on_device(
    model: ServedModel, shared: Mapping[str, Any], candidates: Mapping[str, Any], limits: Limits
) -> Scored:
    """As :func:`score_request`, on the device of the model; where that is another, others may be answered meanwhile."""
    if model.batches is None:
        return score_request(model, shared, candidates, limits)
    encoded = encoded_request(model, shared, candidates, limits)
    return _scored(model, encoded, await model.batches.scores(encoded.inputs))


def encoded_request(
    model: ServedModel, shared: Mapping[str, Any], candidates: Mapping[str, Any], limits: Limits
) -> EncodedRequest:
    """Checks and encodes N candidates.

    Args:
        model: The model.
        shared: Feature to the value that all candidates have.
        candidates: Feature to a list of N values; without features N is 1.
        limits: What a request may hold.

    Raises:
        RequestError: names the feature that cannot be used.
    """
    rows = _rows(candidates, limits)
    for name in shared:
        if name in candidates:
            raise RequestError(f"feature {name!r} is in `shared` and in `candidates`; give it once", name)
    filled, shared, candidates = _filled(model, shared, candidates, rows)
    bids: dict[str, NDArray[np.float64]] = {}
    if model.ranking is not None and model.ranking.bids:
        past = {name: values[0] for name, values in filled.shared.items()}
        bids = _bids(model.ranking, {**shared, **past}, {**candidates, **filled.candidates}, rows)
        # A bid that is a feature is one too.
        others = model.bids - model.bundle.inputs.keys()
        shared = {name: value for name, value in shared.items() if name not in others}
        candidates = {name: values for name, values in candidates.items() if name not in others}
    _check_shared(model, shared, limits)
    _check_candidates(model, candidates, limits)
    encoder, hashed, pseudonym = model.encoder, model.hashed, model.pseudonym
    try:
        if pseudonym is not None and not hashed.keys().isdisjoint(shared):
            once = {name: [value] for name, value in shared.items() if name in hashed}
            shared = {**shared, **{name: values[0] for name, values in hashed_columns(once, hashed, pseudonym).items()}}
        # What the store holds is hashed already.
        row = encoder.shared({**shared, **{name: values[0] for name, values in filled.shared.items()}})
    except BundleError as error:
        raise _refusal("shared", shared, error) from None
    try:
        if pseudonym is not None and not hashed.keys().isdisjoint(candidates):
            candidates = hashed_columns(candidates, hashed, pseudonym)
        inputs = encoder.request(row, {**candidates, **filled.candidates}, rows)
    except BundleError as error:
        raise _refusal("candidates", candidates, error) from None
    return EncodedRequest(inputs, bids, filled)


def _scored(model: ServedModel, encoded: EncodedRequest, scores: Scores) -> Scored:
    ranking = None if model.ranking is None else model.ranking.scores(scores.probabilities, encoded.bids)
    return Scored(scores, model.unknown_ids(encoded.inputs), encoded.inputs, ranking, encoded.filled)


def _bids(
    ranking: RankingScore, shared: Mapping[str, Any], candidates: Mapping[str, list[Any]], rows: int
) -> dict[str, NDArray[np.float64]]:
    """[N] bids by name."""
    found = {}
    for name in ranking.bids:
        where = "candidates" if name in candidates else "shared"
        try:
            once = bid_column(name, candidates[name] if name in candidates else [shared.get(name)])
        except BundleError as error:
            raise RequestError(f"{where}: {error}", name) from None
        found[name] = once if name in candidates else np.repeat(once, rows)
    return found


def _filled(
    model: ServedModel, shared: Mapping[str, Any], candidates: Mapping[str, Any], rows: int
) -> tuple[FilledHistory, Mapping[str, Any], Mapping[str, Any]]:
    """What the store adds, and the request without the fields that are for the store alone."""
    history = model.history
    if history is None:
        return FilledHistory(), shared, candidates
    try:
        filled = history.fill(shared, candidates, rows)
    except BundleError as error:
        message = str(error)
        named = next((name for name in (*candidates, *shared) if repr(name) in message), None)
        raise RequestError(message, named) from None
    own = history.fields
    if not own.isdisjoint(shared):
        shared = {name: value for name, value in shared.items() if name not in own}
    if not own.isdisjoint(candidates):
        candidates = {name: values for name, values in candidates.items() if name not in own}
    return filled, shared, candidates


def _refusal(where: str, columns: Mapping[str, Any], error: BundleError) -> RequestError:
    """What the encoder refuses, as an error of the request."""
    message = str(error)
    named = (name for name in columns if f"feature {name!r}" in message or f": {name!r}" in message)
    return RequestError(f"{where}: {message}", next(named, None))


def _rows(candidates: Mapping[str, Any], limits: Limits) -> int:
    rows, first = 1, None
    for name, values in candidates.items():
        if not isinstance(values, list):
            raise RequestError(
                f"candidates: feature {_shown(name)}: expected a list, a value for each candidate; found {kind_of(values)}",
                name[:LONGEST_NAME],
            )
        if first is None:
            rows, first = len(values), name
        elif len(values) != rows:
            raise RequestError(
                f"candidates: feature {_shown(name)} has {len(values)} values, but feature {_shown(first)} has {rows}; "
                "expected one for each candidate",
                name[:LONGEST_NAME],
            )
    if rows > limits.candidates:
        raise RequestError(
            f"{rows} candidates; expected at most {limits.candidates}", "candidates", status=413, kind="limit"
        )
    return rows


def _check_shared(model: ServedModel, shared: Mapping[str, Any], limits: Limits) -> None:
    for name, value in shared.items():
        if len(name) > LONGEST_NAME:
            raise _long_name(name, "shared")
        if type(value) is list:
            _refuse_lists(name, [value], limits, "shared")
        if type(value) in _INEXACT and name in model.encoder.categories and name not in model.hashed:
            _refuse_inexact(name, [value], "shared")


def _check_candidates(model: ServedModel, candidates: Mapping[str, list[Any]], limits: Limits) -> None:
    for name, values in candidates.items():
        if len(name) > LONGEST_NAME:
            raise _long_name(name, "candidates")
        if name in model.encoder.single_numbers:
            # What is no number the encoder refuses, a list too.
            continue
        kinds = set(map(type, values))
        if list in kinds:
            _refuse_lists(name, values, limits, "candidates")
        if not kinds.isdisjoint(_INEXACT) and name in model.encoder.categories and name not in model.hashed:
            _refuse_inexact(name, values, "candidates")


def _long_name(name: str, where: str) -> RequestError:
    return RequestError(
        f"{where}: a feature has a name of {len(name)} characters; the model has no such feature", name[:LONGEST_NAME]
    )


def _refuse_lists(name: str, values: list[Any], limits: Limits, where: str) -> None:
    longest = max(len(value) for value in values if isinstance(value, list))
    if longest > limits.list_length:
        raise RequestError(
            f"{where}: feature {name!r} has a list of {longest} values; expected at most {limits.list_length}",
            name,
            status=413,
            kind="limit",
        )
    if any(isinstance(part, list) for value in values if isinstance(value, list) for part in value):
        raise RequestError(f"{where}: feature {name!r} has a list inside a list; expected plain values in it", name)


def _refuse_inexact(name: str, values: list[Any], where: str) -> None:
    """A float that stands for several whole numbers is no category; JSON's larger whole numbers arrive as such."""
    flat = (part for value in values for part in (value if isinstance(value, list) else (value,)))
    if any(isinstance(value, float) and abs(value) >= _EXACT for value in flat):
        raise RequestError(
            f"{where}: feature {name!r} has a number that is no exact category; expected a text, or a whole number of "
            "64 bits",
            name,
        )


def _shown(name: str) -> str:
    return repr(name[:LONGEST_NAME])
