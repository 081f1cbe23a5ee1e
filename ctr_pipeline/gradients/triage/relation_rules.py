"""What relations between columns of ids say of causes: one that has the ids of another column in place of its own."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.feature_rules import FIRST_ROW
from ctr_pipeline.gradients.triage.row_sample import Rows

FEWEST_VALUES, FEWEST_ROWS = 20, 500
"""Distinct ids, and rows, below which two columns may agree by chance."""


ENDED = 0.2
"""Share of a vocabulary, at its end, of which no word occurs."""

FEWEST_MISSED = 200.0
"""Rows that its words would have if each were as frequent as the last ones that occur."""


def relation_clues(train: Rows) -> Iterator[Clue]:
    """Clues from columns of ids that follow from another one by arithmetic alone.

    Ids are numbers of vocabularies, in the order of their frequency. A value that follows from another (the category of an
    item) has a number of its own; that one number is the remainder of another, or is cut off at the end of a table, comes
    of reading the wrong column. Two columns with equal numbers may hold the same: that is no fault.
    """
    for at, name in enumerate(train.id_names):
        for other, of in enumerate(train.id_names):
            if other == at or {name, of} & train.from_time:
                continue
            form = _folded(train.ids[:, at], train.ids[:, other])
            if form:
                text = f"ids of feature {name} are those of feature {of}, {form}, in all rows that were looked at"
                yield Clue(cause="ids_misplaced", weight=0.85, text=text, location=name)
                return


def vocabulary_clues(train: Rows) -> Iterator[Clue]:
    """Clues from ids that end far below the end of their vocabulary, where each of the last of them occurs often.

    The words of a vocabulary are in order of falling frequency: rare ones may lack in a sample, and no whole end of it while those
    just before are frequent.
    """
    for at, (name, rows) in enumerate(zip(train.id_names, train.id_rows, strict=False)):
        own = train.ids[:, at]
        own = own[own >= FIRST_ROW]
        if name in train.from_time or name in train.from_past or len(own) < FEWEST_ROWS:
            continue
        end = int(own.max())
        above, counts = rows - 1 - end, np.bincount(own, minlength=end + 1)
        # The last one itself may have what was cut off.
        last = counts[end - max(3, (end - FIRST_ROW) // 10) : end]
        if (
            end - FIRST_ROW < 10
            or above < ENDED * rows
            or float(last.min()) < 1
            or above * float(last.mean()) < FEWEST_MISSED
        ):
            continue
        text = (
            f"no training row that was looked at has an id of feature {name} above {end} of {rows - 1}, and each of those just below has "
            f"{float(last.mean()):.3g}: ids are cut off or folded, or those of another column"
        )
        yield Clue(cause="hash_clip", weight=0.8, text=text, location=name)


def _folded(own: NDArray[np.int64], other: NDArray[np.int64]) -> str:
    """How ``own`` follows from ``other``, which has more ids; empty where it does not."""
    both = (own >= FIRST_ROW) & (other >= FIRST_ROW)
    mine, theirs = own[both], other[both]
    if len(mine) < FEWEST_ROWS or len(np.unique(mine)) < FEWEST_VALUES:
        return ""
    if len(np.unique(theirs)) <= len(np.unique(mine)):
        return ""
    apart = theirs - mine
    width = int(mine.max() - mine.min()) + 1
    step = int(np.gcd.reduce(np.abs(apart - apart[0])))
    if step >= width:
        return f"modulo {step}"
    end = int(mine.max())
    below = mine < end
    if below.sum() > 0.5 * len(mine) and len(np.unique(apart[below])) == 1 and bool((apart >= apart[below][0]).all()):
        return f"cut off at {end}"
    return ""
