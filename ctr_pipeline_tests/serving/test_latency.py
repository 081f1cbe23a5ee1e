"""What a request takes: percentiles of the requests' own times, rows in turn, and a budget that refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctr_pipeline.features.request_columns import RequestColumns
from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.latency import REQUESTS, WARM_UP, Latency, measure_latency
from ctr_pipeline.serving.request_inputs import RequestInputs
from ctr_pipeline_tests.serving.shop import Shop

ONE_COLUMN = RequestColumns((), (0,), (), (0,))


class Recorder:
    """In place of a bundle: notes the rows that it is asked for, and lets the clock of the test go on."""

    def __init__(self, seconds: Callable[[int], float], columns: RequestColumns) -> None:
        self.seconds, self.now, self.rows = seconds, 0.0, list[list[float]]()
        self.columns = columns
        self.events: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def score_inputs(self, inputs: RequestInputs) -> None:
        assert len(inputs.shared_ids) == 1
        numeric, ids = inputs.rows()
        self.now += self.seconds(len(self.rows))
        self.rows.append(numeric[:, 0].tolist())
        self.events.append((numeric[:, 1:], ids[:, 1:]))

    def wait(self) -> None:
        self.now += 100.0


def test_percentiles_are_those_of_the_requests_alone() -> None:
    # The first ones are slow, and so are 2 of 100.
    recorder = Recorder(lambda at: 1.0 if at < WARM_UP else 0.05 if at % 50 == 7 else 0.002, ONE_COLUMN)
    numeric, ids = np.arange(7.0).reshape(7, 1), np.zeros((7, 1), dtype=np.int64)
    found = measure_latency(
        recorder, numeric, ids, 3, processor_time=lambda: recorder.now, pause=recorder.wait  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.candidates == 3
    assert found.p50 == pytest.approx(2.0)
    assert found.p99 == pytest.approx(50.0)
    assert len(recorder.rows) == WARM_UP + REQUESTS
    assert recorder.rows[:3] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]


def test_candidates_of_a_request_have_the_events_of_one_user() -> None:
    recorder = Recorder(lambda _: 0.002, RequestColumns((1,), (0,), (1,), (0,)))
    numeric = np.stack([np.arange(7.0), np.arange(7.0) * 60], axis=1)
    ids = np.stack([np.arange(7), np.arange(7) + 2], axis=1)
    measure_latency(
        recorder, numeric, ids, 3, processor_time=lambda: recorder.now, pause=recorder.wait  # type: ignore[arg-type]
    )  # fmt: skip
    assert recorder.rows[1] == [3, 4, 5]
    ages, events = recorder.events[1]
    assert (ages.tolist(), events.tolist()) == ([[180.0]] * 3, [[5]] * 3)
    assert numeric[4, 1] == 240


@pytest.mark.parametrize(("budget", "within"), [(None, True), (2.0, True), (1.99, False)])
def test_a_budget_refuses_what_is_slower(budget: float | None, within: bool) -> None:
    assert Latency(candidates=1, p50=0.1, p99=2.0).within(budget) is within


def test_a_real_bundle_takes_some_time_and_needs_rows(bundle: Bundle, shop: Shop) -> None:
    ticks = iter(range(10_000))
    numeric, ids = shop.rows(5)
    found = measure_latency(
        bundle, numeric, ids, 2, processor_time=lambda: float(next(ticks)), pause=lambda: None
    )  # fmt: skip
    assert found.p50 == found.p99 == 1e3
    with pytest.raises(BundleError, match="no rows to score"):
        measure_latency(bundle, numeric[:0], ids[:0], 1, processor_time=lambda: 0.0, pause=lambda: None)
