"""Rows that were selected by a feature, a feature of one value, and one that is otherwise in a part of the rows."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ctr_pipeline.gradients.triage.feature_rules import feature_clues
from ctr_pipeline.gradients.triage.label_rules import label_clues
from ctr_pipeline.gradients.triage.row_sample import Rows, rows_at
from ctr_pipeline_tests.gradients.test_triage_rules import causes, rows

Numbers = Callable[[np.ndarray], np.ndarray]


@pytest.mark.parametrize(
    ("change", "named", "against"),
    [
        (lambda v: v[v > 0.5], {"feature_drift"}, True),
        (lambda v: v[np.abs(v) < 0.7], {"feature_drift"}, True),
        # Drifted rows, and rows that spread less, are no selection.
        (lambda v: v + 0.5, set(), False),
        (lambda v: v * 0.4, set(), False),
        (lambda v: v[v > -2], set(), False),
        (lambda v: v * 0.05, {"unnormalised_feature"}, False),
    ],
)
def test_a_selection_is_told_from_another_scale(change: Numbers, named: set[str], against: bool) -> None:
    values = change(rows(0, 20_000).numbers[:, 0])
    own = replace(rows(0, len(values)), numbers=values[:, None])
    found = list(feature_clues(own, rows(1, 20_000)))
    # A distance of two distributions alone is only suspicious.
    assert {c.cause for c in found if c.weight > 0.75 and not c.against} == named
    assert any(c.cause == "unnormalised_feature" and c.against for c in found) == against
    # Of a log that has just begun, a time since something has no large values.
    past = feature_clues(replace(own, from_past=frozenset({"price"})), rows(1, 20_000))
    assert not any(c.against for c in past)


def test_a_number_of_one_value_everywhere_tells_nothing() -> None:
    own, other = (replace(rows(n), numbers=np.zeros((6000, 1))) for n in (0, 1))
    (found,) = feature_clues(own, other)
    assert (found.cause, found.location, found.separating) == ("feature_missing", "price", False)
    gone = (replace(rows(n), numbers=np.full((6000, 1), np.nan)) for n in (0, 1))
    assert [(clue.cause, clue.text) for clue in feature_clues(*gone)] == [
        ("feature_missing", "feature price is missing in all rows")
    ]
    one = [replace(rows(n), ids=np.full((6000, 2), 5), id_rows=(60, 3)) for n in (0, 1)]
    # A vocabulary of one word has one value.
    assert [(clue.cause, clue.location) for clue in feature_clues(*one)] == [("feature_missing", "ad")]
    # Of a flag that few rows have the statistics know; of what was cut down to few values they do not.
    for size, told in ((60.0, 0), (1.0, 1)):
        few = [replace(rows(n), numbers=np.where(np.arange(6000) % 3000 == 0, size, 0.0)[:, None]) for n in (0, 1)]
        assert len(list(feature_clues(*few))) == told
    # A log that is too short for it says nothing.
    few = np.arange(6000) < 300
    assert not list(feature_clues(rows_at(own, few), rows_at(other, few)))


def of_ad(change: Numbers, share: float) -> Rows:
    """Rows of which ``share`` have another ad."""
    given = rows(0, 16_000)
    at = np.random.default_rng(4).random(len(given)) < share
    ids = given.ids.copy()
    ids[at, 0] = change(ids[at, 0])
    return replace(given, ids=ids)


@pytest.mark.parametrize(
    ("change", "share", "cause"),
    [
        (lambda ads: 2 + np.random.default_rng(8).permutation(40)[ads - 2], 0.5, "ids_misplaced"),
        (lambda ads: np.random.default_rng(8).permutation(ads), 0.5, "feature_permuted"),
        (lambda ads: np.random.default_rng(8).permutation(ads), 0.1, None),
    ],
)
def test_a_part_of_a_feature_is_not_taken_for_wrong_labels(change: Numbers, share: float, cause: str | None) -> None:
    own = of_ad(change, share)
    found = [clue for clue in label_clues(own, own, rows(1, 16_000)) if clue.weight > 0.5]
    assert [(clue.cause, clue.location) for clue in found] == ([] if cause is None else [(cause, "ad")])
    assert causes(label_clues(replace(own, from_past=frozenset({"ad"})), own, rows(1, 16_000))) <= {"label_permute"}
