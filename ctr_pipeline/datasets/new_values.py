"""Training rows in which a value stands for one that the vocabulary does not hold, as it was when it was new."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.features import UNKNOWN_ROW, Layout
from ctr_pipeline.spec import Spec

_NOT_NEW = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class NewValues:
    """The values of one feature with a cold start that were new while the training rows came in.

    A served model meets values that came after its training: their history is short, and the vocabulary does not hold them.
    Among the training rows that would be so of none, unless some are shown as they were then.

    Attributes:
        place: The feature's column of the id array.
        days: Days for which a value is new.
        first: [rows of the vocabulary] first day since 1970 of each value; the largest number where it was not new.
    """

    place: int
    days: int
    first: NDArray[np.int64]

    def forget(self, ids: NDArray[np.int32], days: NDArray[np.int64], order: NDArray[np.uint64]) -> None:
        """Sets half of the rows of new values to the row of unknown values, in place.

        Args:
            ids: [N, F] embedding rows of training rows.
            days: [N] day since 1970 of each row.
            order: [N] hash of each row, by which the half is drawn.
        """
        first = self.first[ids[:, self.place]]
        ids[(first <= days) & (days - self.days < first) & (order % 2 == 0), self.place] = UNKNOWN_ROW


def new_values(spec: Spec, layout: Layout, vocabulary: pl.DataFrame, start: date) -> tuple[NewValues, ...]:
    """The new values of each feature whose cold start has ``days``.

    A value that is there in the first ``days`` days of the training rows counts as one of old: it may be older than the log.

    Args:
        spec: The features.
        layout: Layout of the packed inputs.
        vocabulary: The vocabulary, with the first training day of each value.
        start: First day of the training rows.
    """
    found = []
    columns = {
        column.name: (column.rows, place.start) for column, place in zip(layout.ids, layout.id_places, strict=True)
    }
    for feature in spec.features.embedded:
        if feature.cold_start is None or not feature.cold_start.days:
            continue
        rows, place = columns[feature.name]
        days = feature.cold_start.days
        own = vocabulary.filter(
            (pl.col("feature") == feature.name) & (pl.col("first_day") >= start + timedelta(days=days))
        )
        first = np.full(rows, _NOT_NEW, np.int64)
        first[own["row"].to_numpy()] = own["first_day"].to_physical().to_numpy()
        found.append(NewValues(place, days, first))
    return tuple(found)
