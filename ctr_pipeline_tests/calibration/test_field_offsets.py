"""Offsets by a field: the likelihood of k, what they converge to, the order of the rows, the funnel, JSON."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from ctr_pipeline.calibration import (
    CalibrationError,
    IdentityCalibrator,
    OffsetCalibrator,
    PlattCalibrator,
    calibrated_logits,
    calibrator_from_json,
    calibrator_to_json,
    fit_calibrators,
    fit_offsets,
)
from ctr_pipeline.calibration.field_offsets import HIGHEST_K, LOWEST_K, most_likely_k
from ctr_pipeline.features.layout import IdColumn, Layout, Pooled
from ctr_pipeline.orchestration.assets.evaluation import calibrator_cells
from ctr_pipeline.spec.calibration import Identity, Platt

LAYOUT = Layout(
    numeric=(),
    ids=(
        IdColumn("tags", "categorical", 9, 2, pooled=Pooled(3, "mean", "last")),
        IdColumn("shop", "categorical", 40, 2),
    ),
    tasks=("click",),
    parents=(-1,),
)
SHOP = 3
"""The column of the shop: after the three places of the list."""


def ids_of(shops: np.ndarray) -> np.ndarray:
    """Rows of the packed ids, with lists that have the same embedding rows as other shops."""
    ids = np.full((len(shops), 4), 2, dtype=np.int32)
    ids[:, SHOP] = shops
    return ids


def market(seed: int, spread: float, shops: int = 30, size: int = 1500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and ids of ``shops`` whose rates are a gamma of standard deviation ``spread`` times the expected."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(spread**-2, spread**2, shops) if spread else np.ones(shops)
    shop, logits = rng.integers(0, shops, shops * size), rng.normal(-4, 0.5, shops * size)
    labels = (rng.random(shops * size) < np.minimum(special.expit(logits) * rates[shop], 1)).astype(np.int8)
    return logits, labels, ids_of(shop + 2)


def fit(logits: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> OffsetCalibrator:
    return fit_offsets(IdentityCalibrator(), logits, labels, feature="shop", column=SHOP, ids=ids)


@pytest.mark.parametrize(("k", "seed"), [(0.5, 0), (4.0, 1), (4.0, 2), (30.0, 3), (200.0, 4), (0.01, 5)])
def test_k_is_the_most_likely_of_a_fine_grid(k: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected = rng.gamma(0.7, 40.0, 300)
    observed = rng.poisson(expected * rng.gamma(k, 1 / k, 300)).astype(np.float64)
    grid = np.geomspace(LOWEST_K, HIGHEST_K, 4001)
    likelihood = stats.nbinom.logpmf(observed, grid[:, None], (grid[:, None] / (grid[:, None] + expected))).sum(axis=1)
    found = most_likely_k(observed, expected)
    assert found == pytest.approx(grid[likelihood.argmax()], rel=0.004)
    own = stats.nbinom.logpmf(observed, found, found / (found + expected)).sum()
    assert own >= likelihood.max() - 1e-6
    assert own > stats.poisson.logpmf(observed, expected).sum()


@pytest.mark.parametrize("seed", range(12))
def test_no_k_is_found_where_no_likelihood_is_above_that_of_poisson(seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected = rng.gamma(0.7, 40.0, 300)
    observed = rng.poisson(expected).astype(np.float64)
    grid = np.geomspace(LOWEST_K, HIGHEST_K / 2, 400)[:, None]
    gain = stats.nbinom.logpmf(observed, grid, grid / (grid + expected)).sum(axis=1).max()
    assert (most_likely_k(observed, expected) is not None) == (gain > stats.poisson.logpmf(observed, expected).sum())
    # What is left by chance hardly moves anything.
    found = most_likely_k(observed, expected)
    if found is not None:
        assert np.abs(np.log((observed + found) / (expected + found))).max() < 0.25


def test_offsets_converge_to_the_logarithms_of_the_rates() -> None:
    rates = np.array([0.4, 0.7, 1.0, 1.3, 1.6])
    errors = []
    for size in (1_000, 10_000, 100_000):
        shop = np.repeat(np.arange(5), size)
        logits = np.full(len(shop), special.logit(0.01))
        labels = (np.arange(len(shop)) % size < (0.01 * rates * size).round()[shop]).astype(np.int8)
        found = fit(logits, labels, ids_of(shop + 2))
        assert found.values == (2, 3, 4, 5, 6)
        errors.append(np.abs(found.offsets - np.log(rates)).max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


def test_offsets_are_drawn_towards_0_by_k() -> None:
    logits, labels, ids = market(0, 0.4)
    found = fit(logits, labels, ids)
    assert found.k == pytest.approx(0.4**-2, rel=0.6)
    for value, offset in zip(found.values, found.offsets, strict=True):
        own = ids[:, SHOP] == value
        hits, expected = labels[own].sum(), special.expit(logits[own]).sum()
        assert offset == pytest.approx(np.log((hits + found.k) / (expected + found.k)), abs=1e-12)
        assert 0 <= offset / np.log(hits / expected) < 1


def test_offsets_help_on_other_rows_where_the_rates_differ_and_do_no_harm_where_they_do_not() -> None:
    def loss(values: np.ndarray, labels: np.ndarray) -> float:
        return float(np.logaddexp(0, np.where(labels == 1, -1, 1) * values).mean())

    for spread, least, most in ((0.5, 0.01, 1.0), (0.0, -0.0005, 0.0005)):
        logits, labels, ids = market(1, spread, size=3000)
        half = np.arange(len(logits)) % 2 == 0
        found = fit(logits[half], labels[half], ids[half])
        other = ~half
        before, after = (
            loss(logits[other], labels[other]),
            loss(logits[other] + found.offsets_of(ids[other]), labels[other]),
        )
        assert least <= (before - after) / before <= most


def test_where_the_rates_hold_or_a_class_is_absent_nothing_has_an_offset() -> None:
    shop = np.repeat(np.arange(8), 500)
    even = (np.arange(len(shop)) % 500 < 10).astype(np.int8)
    logits = np.full(len(shop), special.logit(0.02))
    frequent = (np.random.default_rng(0).random(len(shop)) < 0.5).astype(np.int8)
    none = np.zeros_like(even)
    for scores, labels in ((logits, even), (np.zeros(len(shop)), frequent), (logits, none), (logits, none - 1)):
        found = fit(scores, labels, ids_of(shop + 2))
        assert (found.k, found.values) == (None, ())
        assert not found.offsets_of(ids_of(shop + 2)).any()


def test_missing_unknown_and_unseen_values_have_no_offset_and_open_labels_do_not_count() -> None:
    logits, labels, ids = market(2, 0.5, shops=10)
    shop = ids[:, SHOP]
    shop[:3000] = np.arange(3000) % 2  # missing and unknown, with many positives of their own
    labels[:3000] = 1
    shop[3000:3500], labels[3000:3500], logits[3000:3500] = 30, -1, np.nan  # a shop without a settled label
    found = fit(logits, labels, ids)
    known = slice(3500, None)
    assert found == fit(logits[known], labels[known], ids[known])
    assert found.values == tuple(range(2, 12))
    assert np.abs(found.offsets).max() > 0.2
    assert found.offsets_of(ids_of(np.array([0, 1, 30, 39, 12]))).tolist() == [0.0] * 5
    assert found.offsets_of(ids_of(np.array([11, 2]))).tolist() == [found.offsets[-1], found.offsets[0]]


LOGITS = st.floats(-12, 12)
ROWS = st.lists(st.tuples(LOGITS, LOGITS, LOGITS, st.integers(0, 6)), min_size=1, max_size=30)
OFFSETS = st.lists(st.floats(-5, 5), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, offsets=st.tuples(OFFSETS, OFFSETS))
def test_order_within_a_value_stays_and_no_step_is_likelier_than_the_one_before(
    rows: list[tuple[float, float, float, int]], offsets: tuple[list[float], list[float]]
) -> None:
    logits, ids = np.array([row[:3] for row in rows]), ids_of(np.array([row[3] for row in rows]))
    shape: dict[str, Any] = {"feature": "shop", "column": SHOP, "k": 2.0, "values": (2, 3, 5)}
    own = [
        OffsetCalibrator(curve=PlattCalibrator(a=0.7, b=0.2), offsets=tuple(offsets[0]), **shape),
        PlattCalibrator(b=-0.5),
        OffsetCalibrator(curve=IdentityCalibrator(), offsets=tuple(offsets[1]), **shape),
    ]
    alone = calibrated_logits(own, (-1, -1, -1), logits, ids)
    table = [dict(zip((2, 3, 5), of, strict=True)) for of in offsets]
    for row, (own_logits, at) in enumerate(zip(logits, ids[:, SHOP], strict=True)):
        by_hand = [
            own_logits[0] * 0.7 + 0.2 + table[0].get(at, 0),
            own_logits[1] - 0.5,
            own_logits[2] + table[1].get(at, 0),
        ]
        assert alone[row] == pytest.approx(by_hand, abs=1e-12)
        assert np.array_equal(alone[row : row + 1], calibrated_logits(own, (-1, -1, -1), own_logits[None], ids[[row]]))
    for value in set(ids[:, SHOP]):
        of_value = ids[:, SHOP] == value
        for task in range(3):
            order = np.argsort(logits[of_value, task])
            assert (np.diff(alone[of_value, task][order]) >= 0).all()
    along = calibrated_logits(own, (-1, 0, 1), logits, ids)
    assert (np.diff(along, axis=1) <= 0).all()
    assert np.array_equal(along, np.minimum.accumulate(alone, axis=1))


def test_a_spec_says_by_which_field() -> None:
    logits, labels, ids = market(3, 0.5)
    given = (["click"], logits[:, None], labels[:, None])
    plain = fit_calibrators(Platt(), *given)["click"]
    found = fit_calibrators(Platt(offsets_by="shop"), *given, layout=LAYOUT, ids=ids)["click"]
    assert isinstance(found, OffsetCalibrator)
    assert (found.curve, found.feature, found.column) == (plain, "shop", SHOP)
    assert (found.rows, found.positives, found.reason) == (plain.rows, plain.positives, plain.reason)
    assert np.array_equal(found.apply(logits), plain.apply(logits))
    for section, layout in ((Platt(offsets_by="store"), LAYOUT), (Identity(offsets_by="shop"), None)):
        with pytest.raises(
            CalibrationError, match=r"`calibration.offsets_by` names '(store|shop)', and the rows given"
        ):
            fit_calibrators(section, *given, layout=layout, ids=ids)


def test_json_is_read_back_and_a_broken_one_refused() -> None:
    found = fit(*market(4, 0.5))
    empty = OffsetCalibrator(curve=PlattCalibrator(a=2.0), feature="shop", column=SHOP)
    for fitted in (found, empty):
        assert calibrator_from_json(calibrator_to_json(fitted)) == fitted
    content = calibrator_to_json(found)
    assert content["kind"] == "with_offsets"
    broken: list[tuple[dict[str, Any], str]] = [
        ({"offsets": content["offsets"][1:]}, "found 30 values and 29 offsets"),
        ({"values": [1, *content["values"][1:]]}, "rising embedding rows from 2 on"),
        ({"values": content["values"][::-1]}, "rising embedding rows"),
        ({"offsets": [float("nan"), *content["offsets"][1:]]}, "finite"),
        ({"k": None}, "no k and no values"),
        ({"k": 0}, "k > 0"),
        ({"column": -1}, "a column from 0 on"),
        ({"curve": 3}, "expected curve, feature, column, k, values and offsets"),
        ({"curve": {"kind": "temperature"}}, "no calibrator is registered under kind 'temperature'"),
    ]
    for change, message in broken:
        with pytest.raises(CalibrationError, match=message):
            calibrator_from_json(content | change)
    del content["feature"]
    with pytest.raises(CalibrationError, match="KeyError"):
        calibrator_from_json(content)


def test_the_metadata_have_sizes_and_no_values() -> None:
    curve = PlattCalibrator(a=1.5, b=0.25, rows=9, positives=3)
    found = OffsetCalibrator(curve=curve, feature="shop", column=SHOP, k=12.34, values=(7, 917), offsets=(0.2, -0.41))
    own = {"offsets by": "shop", "k": "12.3", "values with an offset": 2, "largest offset": 0.41}
    assert calibrator_cells(found) == calibrator_cells(curve) | own
    none = OffsetCalibrator(curve=curve, feature="shop", column=SHOP)
    assert calibrator_cells(none)["k"] == "no offsets"
    assert calibrator_cells(none).keys() == calibrator_cells(found).keys()
