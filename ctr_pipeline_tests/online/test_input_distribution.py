"""Shifts of the distribution are named with their kind, without impression ids; clean and drifting days name nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest

from ctr_pipeline.features.clock_columns import whole_numbers
from ctr_pipeline.features.input_profile import InputProfile, profile_inputs, stability_index
from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.online.input_distribution import _independent_rows, find_shifts
from ctr_pipeline.online.shift_windows import DistributionShift, ServedInputs
from ctr_pipeline.spec.fields import DAY_US, MICROSECONDS

KEYS = {"shop": {n: f"s{n}" for n in range(2, 30)}, "hour": {n + 2: str(n) for n in range(24)}}
WHOLE = {name: whole_numbers(of) for name, of in KEYS.items()}
LAYOUT = Layout(
    numeric=(
        NumericColumn("price", "dense", "signed_log1p", 0.0, False, 3.0, 1.0),
        NumericColumn("rating", "dense", "none", 0.0, True, 3.0, 1.0),
        NumericColumn("age", "dense", "none", 0.0, False, 3.0, 1.0),
    ),
    ids=(IdColumn("shop", "categorical", 30, 4), IdColumn("hour", "contextual", 26, 4)),
    tasks=("click",),
    parents=(-1,),
)
Inputs = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]


def inputs(first_day: int, days: int, rows: int, seed: int) -> Inputs:
    """Rows in order of time; `age` grows from day to day, and the hour is that of the clock."""
    rng = np.random.default_rng([seed, first_day])
    ts = np.sort(rng.integers(first_day * DAY_US, (first_day + days) * DAY_US, rows))
    numeric = np.stack([rng.lognormal(3, 1, rows), rng.normal(3, 1, rows), ts / DAY_US + rng.exponential(5, rows)], 1)
    numeric[rng.random(rows) < 0.05, 1] = np.nan
    shop = np.minimum(rng.zipf(1.4, rows) + 1, 29)
    shop[rng.random(rows) < 0.03] = 1
    ids = np.stack([shop, 2 + ts // MICROSECONDS["h"] % 24], axis=1)
    return numeric.astype(np.float32), ids.astype(np.int32), ts.astype(np.int64)


TRAINING: InputProfile = profile_inputs(LAYOUT, *inputs(0, 20, 40_000, 1), KEYS, inputs(20, 4, 10_000, 1))


def shifts(served: Inputs, day: int, recent: bool = True, size: int = 4) -> list[DistributionShift]:
    numeric, ids, ts = served
    before = profile_inputs(LAYOUT, *inputs(day - 7, 7, 20_000, 2), KEYS) if recent else None
    given = ServedInputs(numeric=numeric, ids=ids, ts=ts, requests=np.arange(len(ts)) // size)
    return find_shifts(given, TRAINING, before, LAYOUT, WHOLE)


def test_the_index_of_rows_of_one_law_follows_the_chi_squared_law() -> None:
    rng, shares = np.random.default_rng(0), np.array([0.05, 0.1, 0.15, 0.2, 0.5])
    n, m, found = 3000, 9000, []
    for _ in range(400):
        found.append(stability_index(rng.multinomial(n, shares) + 0.0, rng.multinomial(m, shares) + 0.0))
    assert kstest(np.array(found) * n * m / (n + m), "chi2", args=(4,)).pvalue > 0.01


@given(seed=st.integers(0, 10_000), day=st.integers(24, 60), rows=st.integers(200, 8000))
def test_a_clean_day_names_nothing_though_it_has_drifted_since_the_training(seed: int, day: int, rows: int) -> None:
    assert shifts(inputs(day, 1, rows, 100 + seed), day) == []


def test_without_the_days_before_a_drift_is_named() -> None:
    assert [shift.feature for shift in shifts(inputs(50, 1, 4000, 3), 50, recent=False)] == ["age"]


def numbers(column: int, change: Callable[[NDArray[np.float32]], object]) -> Callable[[Inputs], Inputs]:
    def apply(given: Inputs) -> Inputs:
        numeric = given[0].copy()
        numeric[:, column] = change(numeric[:, column])
        return numeric, given[1], given[2]

    return apply


def rows_of(column: int, change: Callable[[NDArray[np.int32]], object]) -> Callable[[Inputs], Inputs]:
    def apply(given: Inputs) -> Inputs:
        ids = given[1].copy()
        ids[:, column] = change(ids[:, column])
        return given[0], ids, given[2]

    return apply


@pytest.mark.parametrize(
    ("change", "feature", "kind"),
    [
        (numbers(0, lambda x: x * 100), "price", "unit (×100)"),
        (numbers(0, lambda x: x / 60), "price", "unit (×0.0167)"),
        (numbers(0, np.log1p), "price", "transform left out (log1p)"),
        (numbers(0, lambda x: np.full_like(x, 4)), "price", "constant (4)"),
        (numbers(0, lambda x: np.where(np.arange(len(x)) % 5 == 0, 0, x)), "price", "default (0)"),
        (numbers(1, np.nan_to_num), "rating", "zero for missing"),
        (numbers(1, lambda x: np.where(np.isnan(x), -1, x)), "rating", "default for missing (-1)"),
        (numbers(1, lambda x: np.full_like(x, np.nan)), "rating", "missing (100%, usual 5%)"),
        (rows_of(0, np.ones_like), "shop", "vocabulary (100% are unknown, usual 3%)"),
        (rows_of(0, lambda r: np.where(r > 1, 31 - r, r)), "shop", "vocabulary (values have other rows)"),
        (rows_of(0, lambda r: np.where(r == 2, 1, r)), "shop", "new values"),
        (rows_of(1, lambda r: 2 + (r - 2 + 3) % 24), "hour", "shifted hour (+3 h)"),
    ],
)
def test_a_shift_is_named_with_its_kind(change: Callable[[Inputs], Inputs], feature: str, kind: str) -> None:
    [found] = shifts(change(inputs(40, 1, 6000, 7)), 40)
    assert (found.feature, found.kind.text[: len(kind)]) == (feature, kind)
    assert found.first < 60


def test_of_few_requests_an_estimated_factor_is_that_of_the_unit() -> None:
    """Of 60 requests, the ratio of medians may be off by a fifth."""
    for factor, named in ((100.0, "unit (×100)"), (1 / 60, "unit (×0.0167)")):
        for seed in range(25):
            served = numbers(0, lambda x, factor=factor: x * factor)(inputs(30, 1, 240, 500 + seed))
            [found] = [one for one in shifts(served, 30) if one.feature == "price"]
            assert found.kind.text == named


def test_it_is_named_since_when() -> None:
    numeric, ids, ts = inputs(40, 1, 12_000, 7)
    numeric[7000:, 0] *= 100
    [found] = shifts((numeric, ids, ts), 40)
    assert (found.feature, found.kind.name) == ("price", "unit")
    assert abs(found.first - 7000) <= 20
    assert abs(found.requests - 1250) <= 5


def test_a_shift_of_few_requests_among_many_is_named() -> None:
    numeric, ids, ts = inputs(40, 1, 60_000, 7)
    numeric[-4400:, 1] *= 3
    assert [found.feature for found in shifts((numeric, ids, ts), 40)] == ["rating"]


def test_candidates_that_share_a_value_count_once() -> None:
    """A page has one hour and, here, one shop: 40 pages of 50 candidates are 40 draws and not 2,000."""
    numeric, ids, ts = inputs(40, 1, 60, 5)
    repeated = (np.repeat(numeric, 50, axis=0), np.repeat(ids, 50, axis=0), np.repeat(ts, 50))
    assert shifts(repeated, 40, size=50) == []


def test_candidates_of_a_request_that_are_alike_count_as_fewer() -> None:
    """Pages of one shop mostly: of ten candidates nine have its shop. A hundred pages are no thousand draws."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        numeric, ids, ts = inputs(40, 1, 1000, 50 + seed)
        ids[:, 0] = np.where(rng.random(1000) < 0.9, np.repeat(ids[::10, 0], 10), ids[:, 0])
        assert shifts((numeric, ids, ts), 40, size=10) == []
    bins, requests = np.repeat(np.arange(100) % 7, 10), np.repeat(np.arange(100), 10)
    assert _independent_rows(bins, requests) == 100
    assert _independent_rows(np.random.default_rng(0).permutation(bins), requests) > 800
    assert _independent_rows(bins[:0], requests[:0]) == 0


def test_a_profile_is_read_as_it_was_written() -> None:
    assert InputProfile.from_json(TRAINING.to_json()) == TRAINING
    with pytest.raises(ValueError, match="format 0"):
        InputProfile.from_json(TRAINING.to_json().replace('"format":1', '"format":0', 1))


def test_a_profile_holds_no_value_of_a_category() -> None:
    assert '"s2"' not in TRAINING.to_json()
    assert [(clock.feature, clock.period, clock.shift + clock.minutes) for clock in TRAINING.clocks] == [
        ("hour", 24, 0)
    ]
