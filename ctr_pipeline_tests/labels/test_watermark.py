"""The watermark of a log of outcomes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.labels import arrival_watermark

instants = st.lists(st.integers(0, 10**6), max_size=30).map(lambda values: np.array(values, dtype=np.int64))


def test_a_log_in_its_usual_rhythm_is_complete() -> None:
    assert arrival_watermark(np.array([0, 10, 30, 40]), as_of=55) == 55


def test_a_log_that_stopped_is_complete_up_to_its_longest_silence_after_the_last_arrival() -> None:
    assert arrival_watermark(np.array([40, 30, 0, 10]), as_of=100) == 60


def test_without_arrivals_nothing_can_be_said_against_the_log() -> None:
    assert arrival_watermark(np.array([], dtype=np.int64), as_of=7) == 7
    assert arrival_watermark(np.array([9]), as_of=7) == 7
    assert arrival_watermark(np.array([3]), as_of=7) == 3


@given(arrivals=instants, as_of=st.integers(0, 10**6), later=instants)
def test_later_arrivals_never_change_it_and_it_never_passes_the_instant(
    arrivals: np.ndarray, as_of: int, later: np.ndarray
) -> None:
    watermark = arrival_watermark(arrivals, as_of)
    assert watermark <= as_of
    assert watermark == arrival_watermark(np.concatenate([arrivals, later[later > as_of]]), as_of)
