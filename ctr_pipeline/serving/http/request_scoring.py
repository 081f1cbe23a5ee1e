"""A request of one user and many candidates: checked, hashed, encoded and scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.layout import UNKNOWN_ROW
from ctr_pipeline.serving.bundle import Bundle, Scores
from ctr_pipeline.serving.http.pseudonym_features import hashed_columns, pseudonym_features
from ctr_pipeline.serving.http.request_json import LONGEST_NAME, Limits, RequestError, kind_of
from ctr_pipeline.serving.request_encoding import TIME, RequestEncoder
from ctr_pipeline.serving.request_values import BundleError
from ctr_pipeline.spec import parse_spec

_EXACT = 2**53


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An opened bundle and what its requests need."""

    bundle: Bundle
    encoder: RequestEncoder
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
        return cls(bundle, bundle.encoder(), pseudonym, hashed, text, facts or {}, user)

    def unknown_ids(self, ids: NDArray[np.int64]) -> dict[str, int]:
        """Number of values that the vocabulary does not hold, by feature that has such values."""
        found = (ids == UNKNOWN_ROW).sum(axis=0)
        if not found.any():
            return {}
        counts = {name: int(found[places].sum()) for name, (_, places) in self.encoder.categories.items()}
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a request, how many of its ids are unknown by feature, and what the model got."""

    scores: Scores
    unknown: Mapping[str, int]
    numeric: NDArray[np.float32]
    """[N, D]"""
    ids: NDArray[np.int64]
    """[N, F]"""


def score_request(
    model: ServedModel, shared: Mapping[str, Any], candidates: Mapping[str, Any], limits: Limits
) -> Scored:
    """Scores N candidates.

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
    numeric, ids = _encoded(model, {name: [value] for name, value in shared.items()}, 1, limits, "shared")
    if candidates:
        own_numeric, own_ids = _encoded(model, candidates, rows, limits, "candidates")
        numeric, ids = np.repeat(numeric, rows, axis=0), np.repeat(ids, rows, axis=0)
        numbers, categories = model.encoder.numbers, model.encoder.categories
        for name in _made_by_rows(model, shared, candidates):
            if name in numbers:
                numeric[:, numbers[name]] = own_numeric[:, numbers[name]]
            else:
                places = categories[name][1]
                ids[:, places] = own_ids[:, places]
    return Scored(model.bundle.score(numeric, ids), model.unknown_ids(ids), numeric, ids)


def _made_by_rows(model: ServedModel, shared: Mapping[str, Any], candidates: Mapping[str, Any]) -> list[str]:
    """The features that the candidates have of their own; those that their times make, unless they are shared."""
    named = [name for name in candidates if name != TIME]
    if TIME not in candidates:
        return named
    timed = (column.name for column in model.bundle.layout.ids if column.from_time is not None)
    return [*named, *(name for name in timed if name not in shared and name not in candidates)]


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


def _encoded(
    model: ServedModel, columns: Mapping[str, list[Any]], rows: int, limits: Limits, where: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    for name, values in columns.items():
        if len(name) > LONGEST_NAME:
            raise RequestError(
                f"{where}: a feature has a name of {len(name)} characters; the model has no such feature",
                name[:LONGEST_NAME],
            )
        _refuse_lists(name, values, limits, where)
        if name in model.encoder.categories and name not in model.hashed:
            _refuse_inexact(name, values, where)
    try:
        if model.pseudonym is not None and not model.hashed.keys().isdisjoint(columns):
            columns = hashed_columns(columns, model.hashed, model.pseudonym)
        return model.encoder.columns(columns, rows)
    except BundleError as error:
        message = str(error)
        named = (name for name in columns if f"feature {name!r}" in message or f": {name!r}" in message)
        raise RequestError(f"{where}: {message}", next(named, None)) from None


def _refuse_lists(name: str, values: list[Any], limits: Limits, where: str) -> None:
    if list in set(map(type, values)):
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
    kinds = set(map(type, values))
    flat = (
        [part for value in values for part in (value if isinstance(value, list) else (value,))]
        if list in kinds
        else values
    )
    if any(isinstance(value, float) and abs(value) >= _EXACT for value in flat):
        raise RequestError(
            f"{where}: feature {name!r} has a number that is no exact category; expected a text, or a whole number of "
            "64 bits",
            name,
        )


def _shown(name: str) -> str:
    return repr(name[:LONGEST_NAME])
