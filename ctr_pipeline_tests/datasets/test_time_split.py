from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.datasets import DatasetError, SplitBounds, split_bounds
from ctr_pipeline.spec import Spec, load_spec, parse_spec

DAY = 86_400_000_000
SPEC = """
version: 1
name: small
source: {{impressions: {{paths: [x.parquet]}}, events: [{{paths: [y.parquet]}}]}}
impression: {{id: i, time: t}}
features: {{dense: [{{name: price}}]}}
tasks: [{{name: click, window: {window}, label: {{event: click}}}}]
split: {{test: {test}, calibration: {calibration}, validation: {validation}, ingest_lag: {lag}{more}}}
training: {{refit: false}}
"""


def a_spec(
    window: str = "2d",
    test: str = "{days: 3}",
    calibration: str = "{days: 2}",
    validation: str = "{days: 1}",
    lag: str = "0s",
    more: str = "",
) -> Spec:
    text = SPEC.format(window=window, test=test, calibration=calibration, validation=validation, lag=lag, more=more)
    return parse_spec(text, "small.yaml")


def rows(ts: np.ndarray, bounds: SplitBounds) -> dict[str, int]:
    return {name: int(((ts >= start) & (ts < end)).sum()) for name, (start, end) in bounds.intervals.items()}


def in_days(bounds: SplitBounds, task: str = "click") -> dict[str, float]:
    return {name: instant / DAY for name, instant in instants(bounds, task).items()}


def instants(bounds: SplitBounds, task: str) -> dict[str, int]:
    content = bounds.to_json()
    return {**content.pop("tasks")[task], **content}


def test_days_by_hand() -> None:
    ts = np.arange(20 * 24) * (DAY // 24)
    assert in_days(split_bounds(a_spec(), ts, 20 * DAY)) == {
        "train_start": 0,
        "validation_start": 10,
        "calibration_start": 11,
        "settled_end": 13,
        "test_start": 15,
        "test_end": 18,
        "as_of": 20,
    }


def test_a_part_of_a_day_more_waits_for_the_next_midnight() -> None:
    ts = np.arange(20 * 24) * (DAY // 24)
    bounds = split_bounds(a_spec(lag="1h"), ts, 20 * DAY)
    assert (bounds.test_end, bounds.test_start, bounds.settled_end) == (17 * DAY, 14 * DAY, 11 * DAY)
    assert bounds.test_start - bounds.settled_end >= a_spec(lag="1h").longest_maturity


def test_the_test_ends_with_the_log_when_that_is_earlier() -> None:
    ts = np.arange(20 * 24) * (DAY // 24)
    assert split_bounds(a_spec(), ts, 40 * DAY).test_end == 20 * DAY


def test_longest_training_interval() -> None:
    ts = np.arange(20 * 24) * (DAY // 24)
    assert split_bounds(a_spec(more=", train_days: 4"), ts, 20 * DAY).train_start == 6 * DAY
    assert split_bounds(a_spec(more=", train_days: 99"), ts, 20 * DAY).train_start == 0


def test_fractions_are_exact_to_the_row() -> None:
    spec = a_spec("0s", "{fraction: 0.2}", "{fraction: 0.08}", "{fraction: 0.08}")
    ts = np.random.default_rng(1).permutation(np.arange(16_000) * 86_400_000 + 17)
    bounds = split_bounds(spec, ts, int(ts.max()) + DAY)
    assert rows(ts, bounds) == {"train": 10_240, "validation": 1_280, "calibration": 1_280, "test": 3_200}


def test_rows_with_one_time_stay_together() -> None:
    spec = a_spec("0s", "{fraction: 0.5}", "{fraction: 0.2}", "{fraction: 0.2}")
    ts = np.repeat(np.arange(10) * DAY, 3)
    sizes = rows(ts, split_bounds(spec, ts, 11 * DAY))
    assert sum(sizes.values()) == 30
    assert all(size % 3 == 0 for size in sizes.values())


def test_real_display_ads_split(shared_data: Path, project: Path) -> None:
    log = pl.read_parquet(shared_data / "criteo_display_16k.parquet", columns=["row_order"])
    ts = log["row_order"].rank("ordinal").cast(pl.Int64).to_numpy() * 86_400_000
    spec = load_spec(project / "specs" / "criteo.yaml")
    assert rows(ts, split_bounds(spec, ts, int(ts.max()) + DAY))["test"] == 3_200


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    window=st.sampled_from(["0s", "5h", "2d"]),
    test=st.sampled_from(["{days: 2}", "{fraction: 0.2}"]),
    calibration=st.sampled_from(["{days: 1}", "{fraction: 0.1}"]),
    validation=st.sampled_from(["{days: 1}", "{fraction: 0.1}"]),
    lag=st.sampled_from(["0s", "7h"]),
)
def test_intervals_never_overlap_and_the_gap_holds(
    seed: int, window: str, test: str, calibration: str, validation: str, lag: str
) -> None:
    spec = a_spec(window, test, calibration, validation, lag)
    ts = np.random.default_rng(seed).integers(0, 16 * DAY, 500)
    as_of = 16 * DAY
    bounds = split_bounds(spec, ts, as_of)
    ascending = list(instants(bounds, "click").values())
    assert ascending == sorted(ascending)
    assert all(size > 0 for size in rows(ts, bounds).values())
    assert bounds.test_start - bounds.settled_end >= spec.longest_maturity
    tested = ts[(ts >= bounds.test_start) & (ts < bounds.test_end)]
    assert (tested + spec.longest_maturity <= as_of).all()
    if "days" in test:
        assert bounds.test_start % DAY == bounds.test_end % DAY == 0
        # No later whole day would have been mature.
        assert bounds.test_end + DAY + spec.longest_maturity > as_of


@pytest.mark.parametrize(("days", "enough"), [(10, False), (11, True)])
def test_a_short_log_is_refused_with_the_days_it_needs(days: int, enough: bool) -> None:
    ts = np.arange(days * 24) * (DAY // 24)
    if enough:
        assert rows(ts, split_bounds(a_spec(), ts, days * DAY))["train"] == 24
    else:
        with pytest.raises(DatasetError, match=r"from 1970-01-01.* to 1970-01-10.*about 11 days.*shorten the slices"):
            split_bounds(a_spec(), ts, days * DAY)


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(DatasetError, match="no impressions"):
        split_bounds(a_spec(), np.array([], dtype=np.int64), DAY)


def test_json_round_trip() -> None:
    bounds = split_bounds(a_spec(), np.arange(20 * 24) * (DAY // 24), 20 * DAY)
    assert SplitBounds.from_json(bounds.to_json()) == bounds
    assert bounds.describe()["test_start"] == "1970-01-16T00:00:00Z"
