"""How long a bundle takes to score a request, on one core."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.serving.bundle import Bundle
from ctr_pipeline.serving.request_inputs import RequestInputs
from ctr_pipeline.serving.request_values import BundleError

REQUESTS = 200
"""Requests that are timed. The 99th percentile is then that of the second and third slowest."""

WARM_UP = 5
"""Requests before them, which lay out the memory of the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What scoring a request takes.

    Attributes:
        candidates: Rows of a request.
        p50: Median, in milliseconds.
        p99: 99th percentile, in milliseconds.
    """

    candidates: int
    p50: float
    p99: float

    def within(self, budget_ms: float | None) -> bool:
        """Whether the 99th percentile is at most ``budget_ms``; always without a budget."""
        return budget_ms is None or self.p99 <= budget_ms


def measure_latency(
    bundle: Bundle,
    numeric: NDArray[Any],
    ids: NDArray[Any],
    candidates: int,
    *,
    processor_time: Callable[[], float],
    pause: Callable[[], None],
) -> Latency:
    """Times requests of ``candidates`` rows each, which are taken from the given ones in turn.

    The candidates of a request have what they share of its first row, such as the events of its user.

    Between two requests is a pause, because without one the processor's caches hold the whole model, as they do not where
    other work is done between requests.

    Args:
        bundle: The opened bundle; its session computes in the calling thread.
        numeric: [N, D] raw numbers, N > 0.
        ids: [N, F] embedding rows.
        candidates: Rows of a request.
        processor_time: Seconds that the calling thread has computed, such as ``time.thread_time``. Unlike the time of day
            it does not count what other processes take.
        pause: Waits for about a millisecond.

    Raises:
        BundleError: there are no rows, or they do not fit the bundle.
    """
    if not len(numeric):
        raise BundleError("latency: no rows to score; give at least one")
    seconds, shared = [], bundle.columns
    for request in range(WARM_UP + REQUESTS):
        rows = np.arange(request * candidates, (request + 1) * candidates) % len(numeric)
        numbers, chosen = numeric[rows].astype(np.float32), ids[rows].astype(np.int64)
        numbers[:, shared.shared_numbers] = numbers[0, shared.shared_numbers]
        chosen[:, shared.shared_ids] = chosen[0, shared.shared_ids]
        inputs = RequestInputs.of_rows(numbers, chosen, shared)
        pause()
        started = processor_time()
        bundle.score_inputs(inputs)
        seconds.append(processor_time() - started)
    p50, p99 = np.percentile(1e3 * np.array(seconds[WARM_UP:]), [50, 99])
    return Latency(candidates=candidates, p50=float(p50), p99=float(p99))
