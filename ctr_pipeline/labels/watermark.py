"""Up to when a log of outcomes can be trusted to be complete."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def arrival_watermark(arrivals: NDArray[np.integer[Any]], as_of: int) -> int:
    """The instant up to which outcomes have surely been delivered, as of ``as_of``.

    A log that has been silent for longer than ever before has probably stopped. So the watermark is the last arrival
    plus the longest silence between two arrivals, and never later than ``as_of``. A log with fewer than two arrivals
    has no rhythm to judge by: then it is the last arrival, or ``as_of`` where there is none.

    Args:
        arrivals: [N] ingest times of outcomes, microseconds since 1970-01-01 UTC, in any order.
        as_of: Instant up to which arrivals were read, microseconds.
    """
    seen = np.unique(arrivals[arrivals <= as_of])
    if not len(seen):
        return as_of
    silence = int(np.diff(seen).max()) if len(seen) > 1 else 0
    return min(as_of, int(seen[-1]) + silence)
