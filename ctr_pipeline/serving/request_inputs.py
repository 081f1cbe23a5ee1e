"""A request as the exported graph reads it."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.request_columns import RequestColumns


@dataclass(frozen=True, slots=True)
class RequestInputs:
    """Inputs of N = G·C rows: C candidates of each of G requests.

    Attributes:
        columns: Which of the model's columns are shared. Where none is, each row is whole and G is 1.
        shared_numeric: [G, …] raw numbers that all candidates share, NaN where missing.
        shared_ids: [G, …] embedding rows that they share.
        numeric: [G, C, …] raw numbers of their own.
        ids: [G, C, …] embedding rows of their own.
    """

    columns: RequestColumns
    shared_numeric: NDArray[np.float32]
    shared_ids: NDArray[np.int64]
    numeric: NDArray[np.float32]
    ids: NDArray[np.int64]

    @classmethod
    def of_rows(cls, numeric: NDArray[np.float32], ids: NDArray[np.int64], columns: RequestColumns) -> Self:
        """Those of N whole rows: of one request where all rows share what they may, as a request's do, else of N."""
        shared_numeric = numeric.take(columns.shared_numbers, axis=1)
        shared_ids = ids.take(columns.shared_ids, axis=1)
        own, own_ids = numeric.take(columns.own_numbers, axis=1), ids.take(columns.own_ids, axis=1)
        # Of equal bits, so that missing numbers are equal.
        bits = shared_numeric.view(np.uint32)
        if bool((shared_ids == shared_ids[:1]).all() and (bits == bits[:1]).all()):
            return cls(columns, shared_numeric[:1], shared_ids[:1], own[None], own_ids[None])
        return cls(columns, shared_numeric, shared_ids, own[:, None], own_ids[:, None])

    def rows(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Numeric [N, D] and ids [N, F] as whole rows."""
        requests, candidates = self.ids.shape[:2]
        count, columns = requests * candidates, self.columns
        numeric = np.empty((count, len(columns.shared_numbers) + len(columns.own_numbers)), dtype=np.float32)
        ids = np.empty((count, len(columns.shared_ids) + len(columns.own_ids)), dtype=np.int64)
        numeric[:, columns.own_numbers] = self.numeric.reshape(count, len(columns.own_numbers))
        ids[:, columns.own_ids] = self.ids.reshape(count, len(columns.own_ids))
        numeric[:, columns.shared_numbers] = np.repeat(self.shared_numeric, candidates, axis=0)
        ids[:, columns.shared_ids] = np.repeat(self.shared_ids, candidates, axis=0)
        return numeric, ids
