"""Served inputs beside recomputed ones, feature by feature: how many rows differ, since when, and the likely kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features import Layout
from ctr_pipeline.features.input_columns import IdColumn
from ctr_pipeline.features.local_time import time_part_of
from ctr_pipeline.online.category_kinds import CategoryEvidence, kind_of_category
from ctr_pipeline.online.number_evidence import NumberEvidence, close
from ctr_pipeline.online.number_kinds import kind_of_number
from ctr_pipeline.online.skew_kinds import Kind, Mask
from ctr_pipeline.online.vector_kinds import kind_of_vector
from ctr_pipeline.spec.fields import MICROSECONDS

MOST_DIFFERING_SHARE = 0.001
"""Largest share of the rows of a number that may differ; of ids none may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedInputs:
    """K rows of one model, in order of time."""

    layout: Layout
    numeric: NDArray[np.float32]
    """[K, D] as served."""
    ids: NDArray[np.int32]
    """[K, F] as served."""
    expected_numeric: NDArray[np.float32]
    expected_ids: NDArray[np.int32]
    ts: NDArray[np.int64]
    """[K] microseconds."""
    requests: NDArray[np.int64]
    """[K] number of the request."""
    earlier: Callable[[int], tuple[NDArray[np.float32], NDArray[np.int32]]]
    """Both arrays recomputed from a snapshot so many days older."""
    keys: Mapping[str, Mapping[int, str]]
    """By vocabulary the value of each row."""
    vocabularies: Mapping[str, Mapping[str, Mapping[str, int]]]
    """Of other models, by vocabulary, the rows of the values."""
    ages: frozenset[str]
    """Features that are times before the impression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDifference:
    """How one feature was served."""

    feature: str
    is_id: bool
    rows: int
    """Compared."""
    differing: int
    kind: Kind | None
    """None where too few rows differ to count."""
    first: int
    """Place of the first differing row among the compared ones; -1 where none differs."""
    requests: int
    """Requests with a differing row."""

    @property
    def share(self) -> float:
        """Share of the rows that differ."""
        return self.differing / max(1, self.rows)


def compare_inputs(given: ComparedInputs) -> list[FeatureDifference]:
    """Each feature of the layout, in its order."""
    numbers, ids = given.numeric.astype(np.float64), given.ids.astype(np.int64)
    expected, expected_ids = given.expected_numeric.astype(np.float64), given.expected_ids.astype(np.int64)
    earlier = cache(given.earlier)
    found = []
    for feature, places in given.layout.number_places.items():
        columns = list(range(places.start, places.stop))
        differs = np.stack([differing_numbers(numbers[:, at], expected[:, at]) for at in columns], axis=1)
        worst = columns[int(np.argmax(differs.sum(axis=0)))]
        own = differs[:, worst - places.start]

        def number_kind(at: int = worst, own: Mask = own, feature: str = feature) -> Kind:
            column = given.layout.numeric[at]
            return kind_of_number(
                NumberEvidence(
                    served=numbers[:, at],
                    expected=expected[:, at],
                    differs=own,
                    requests=given.requests,
                    ts=given.ts,
                    earlier=(lambda days: earlier(days)[0][:, at].astype(np.float64))
                    if column.group == "history"
                    else None,
                    others={
                        other.name: expected[:, n]
                        for n, other in enumerate(given.layout.numeric)
                        if other.feature != feature
                    },
                    is_age=feature in given.ages,
                    fill=column.fill,
                    scale=(column.mean, column.std),
                    logarithmic=column.transform == "signed_log1p",
                )
            )

        any_differs: Mask = np.logical_or.reduce(differs, axis=1)

        def kind(
            places: slice = places, differs: Mask = any_differs, element: Callable[[], Kind] = number_kind
        ) -> Kind:
            return kind_of_vector(numbers[:, places], expected[:, places], differs) or element()

        found.append(_difference(feature, False, any_differs, given.requests, kind))
    for id_column, places in zip(given.layout.ids, given.layout.id_places, strict=True):
        served, wanted = ids[:, places], expected_ids[:, places]
        differs_rows: Mask = np.logical_or.reduce(served != wanted, axis=1)

        def id_kind(
            column: IdColumn = id_column,
            places: slice = places,
            served: NDArray[np.int64] = served,
            wanted: NDArray[np.int64] = wanted,
            differs: Mask = differs_rows,
        ) -> Kind:
            return kind_of_category(
                CategoryEvidence(
                    served=served,
                    expected=wanted,
                    differs=differs,
                    requests=given.requests,
                    ts=given.ts,
                    keys=given.keys.get(column.vocabulary, {}),
                    vocabularies={name: of.get(column.vocabulary, {}) for name, of in given.vocabularies.items()},
                    earlier=(lambda days: earlier(days)[1][:, places].astype(np.int64))
                    if column.group == "history"
                    else None,
                    shifted=_shifted_rows(column, given) if column.from_time is not None else None,
                )
            )

        found.append(_difference(id_column.name, True, differs_rows, given.requests, id_kind))
    return found


def differing_numbers(served: NDArray[np.float64], expected: NDArray[np.float64]) -> Mask:
    """Where two numbers differ: whole ones at all, others by more than 1e-6 of their size; a missing one from any other."""
    with np.errstate(invalid="ignore"):
        whole = (served == np.trunc(served)) & (expected == np.trunc(expected))
    found: Mask = ~close(served, expected) | (whole & (served != expected))
    return found


def _difference(
    feature: str, is_id: bool, differs: Mask, requests: NDArray[np.int64], kind: Callable[[], Kind]
) -> FeatureDifference:
    count, rows = int(differs.sum()), len(differs)
    counts = count > (0 if is_id else MOST_DIFFERING_SHARE * rows)
    return FeatureDifference(
        feature=feature,
        is_id=is_id,
        rows=rows,
        differing=count,
        kind=kind() if counts else None,
        first=int(np.argmax(differs)) if count else -1,
        requests=len(np.unique(requests[differs])),
    )


def _shifted_rows(column: IdColumn, given: ComparedInputs) -> Callable[[int], NDArray[np.int64]]:
    assert column.from_time is not None, "asked before"
    form, rows = column.from_time, {key: row for row, key in given.keys.get(column.vocabulary, {}).items()}

    def made(minutes: int) -> NDArray[np.int64]:
        # The same for all times of a quarter of an hour.
        quarter = 15 * MICROSECONDS["m"]
        times, back = np.unique((given.ts + minutes * MICROSECONDS["m"]) // quarter, return_inverse=True)
        texts = [time_part_of(int(time) * quarter, form.part, form.zone) for time in times]
        found: NDArray[np.int64] = np.array([rows.get(text, 1) for text in texts], dtype=np.int64)[back][:, None]
        return found

    return made
