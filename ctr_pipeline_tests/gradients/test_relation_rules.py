"""A column of ids that is another one's by arithmetic is told; one that follows from another by its meaning is none."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ctr_pipeline.gradients.triage.relation_rules import relation_clues, vocabulary_clues
from ctr_pipeline.gradients.triage.row_sample import Rows

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def of(change: Change) -> Rows:
    """Ids of an ad, which ``change`` makes of its own and of a query's."""
    rng = np.random.default_rng(3)
    own, query = (2 + np.minimum(rng.exponential(size / 5, 4000), size - 3).astype(int) for size in (60, 200))
    return Rows(
        numbers=np.zeros((4000, 0)), ids=np.stack([change(own, query), query], axis=1), labels=np.zeros((4000, 1), dtype=np.int8),
        weights=np.ones((4000, 1)), number_names=[], id_names=["ad", "query"], tasks=("click",),
    )  # fmt: skip


def category(_: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Each query has its own of 40 categories, numbered by their frequency."""
    found = np.random.default_rng(8).integers(0, 40, 200)[query]
    order = np.argsort(-np.bincount(found, minlength=40))
    return 2 + np.argsort(order)[found]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda own, _: own, None),
        (category, None),
        (lambda _, query: query, None),
        (lambda _, query: 2 + (query - 2) % 58, "of feature query, modulo 58"),
        (lambda _, query: query % 60, "of feature query, modulo 60"),
        (lambda _, query: np.minimum(query, 59), "of feature query, cut off at 59"),
        (lambda _, query: 2 + query % 4, None),
    ],
)
def test_ids_of_another_column_are_told(change: Change, words: str | None) -> None:
    found = list(relation_clues(of(change)))
    assert [(clue.cause, clue.location) for clue in found] == ([] if words is None else [("ids_misplaced", "ad")])
    assert words is None or words in found[0].text


@pytest.mark.parametrize(
    ("change", "rows", "words"),
    [
        (lambda own, _: own, (60, 200), None),
        # Words that are rare, or that a short log has not yet seen, are no cut end.
        (lambda own, _: own, (90, 200), None),
        (lambda _, query: query & 31, (200, 200), "of feature ad above 31 of 199"),
        (lambda _, query: np.minimum(query, 40), (200, 200), "of feature ad above 40 of 199"),
    ],
)
def test_an_end_of_a_vocabulary_that_never_occurs_is_told(
    change: Change, rows: tuple[int, int], words: str | None
) -> None:
    found = list(vocabulary_clues(replace(of(change), id_rows=rows)))
    assert [(clue.cause, clue.location) for clue in found] == ([] if words is None else [("hash_clip", "ad")])
    assert words is None or words in found[0].text


def test_what_follows_from_the_time_is_looked_at_by_none() -> None:
    assert not list(relation_clues(replace(of(lambda _, query: query % 60), from_time=frozenset({"ad"}))))
