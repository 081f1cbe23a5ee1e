"""Features of the past are empty when a log begins, which is no fault; and one where they are empty later too."""

from dataclasses import replace

import numpy as np

from ctr_pipeline.gradients.triage.feature_rules import feature_clues
from ctr_pipeline.gradients.triage.row_sample import Rows
from ctr_pipeline_tests.gradients.test_triage_rules import causes, rows


def of_the_past(given: Rows, empty: float, **names: frozenset[str]) -> Rows:
    """``given`` whose number and first id are missing in the first ``empty`` of the rows."""
    first = np.arange(len(given)) < empty * len(given)
    numbers, ids = given.numbers.copy(), given.ids.copy()
    numbers[first, 0] = np.nan
    ids[first, 0] = 0
    return replace(given, numbers=numbers, ids=ids, **names)


def test_a_log_that_begins_without_a_past_is_no_fault() -> None:
    past = frozenset({"price", "ad"})
    begun = of_the_past(rows(0), 0.5)
    assert causes(feature_clues(begun, rows(1))) == {"feature_missing"}
    assert causes(feature_clues(replace(begun, from_past=past), rows(1))) == set()
    # Also where its values grow with time.
    later = np.linspace(0.2, 1.0, len(begun))[:, None] ** 0.1
    grown = replace(begun, from_past=past, numbers=begun.numbers * later)
    assert causes(feature_clues(grown, rows(1))) == set()


def test_a_past_that_stays_empty_is_a_fault() -> None:
    for empty in (1.0, 0.9):
        found = feature_clues(of_the_past(rows(0), empty, from_past=frozenset({"price", "ad"})), rows(1))
        assert {(clue.cause, clue.location) for clue in found} == {
            ("feature_missing", "price"),
            ("feature_missing", "ad"),
        }
