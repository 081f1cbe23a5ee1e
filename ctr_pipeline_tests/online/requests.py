"""Served requests that are made up."""

import numpy as np

from ctr_pipeline.serving.bundle import Scores
from ctr_pipeline.serving.http.served_request import ServedRequest


def made_request(
    number: int, rows: int = 3, ts: int | None = 1_767_225_600_000_000, named: bool = True, numbers: int = 4
) -> ServedRequest:
    """A request of ``rows`` candidates whose values follow from its number; some of them are missing."""
    rng = np.random.default_rng(number)
    numeric = rng.normal(size=(rows, numbers)).astype(np.float32)
    numeric[rng.random(numeric.shape) < 0.2] = np.nan
    logits = rng.normal(size=(rows, 2)).astype(np.float32)
    return ServedRequest(
        request_id=f"request-{number}" if named else None,
        impression_ids=[f"i{number}-{slot}" for slot in range(rows)] if named else None,
        ts=ts,
        arm="champion",
        model_sha="0" * 64,
        snapshot="",
        numeric=numeric,
        ids=rng.integers(-1, 9, (rows, 3)),
        scores=Scores(logits, 1 / (1 + np.exp(-logits))),
    )
