"""Each kind of skew is named on the rows that differ, whatever the feature's values; equal inputs name nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctr_pipeline.online import category_kinds, skew_kinds
from ctr_pipeline.online.category_kinds import CategoryEvidence, kind_of_category
from ctr_pipeline.online.feature_comparison import differing_numbers
from ctr_pipeline.online.number_evidence import NumberEvidence
from ctr_pipeline.online.number_kinds import kind_of_number
from ctr_pipeline.online.vector_kinds import kind_of_vector

Numbers = NDArray[np.float64]
ROWS, SIZE = 600, 5
REQUESTS = np.arange(ROWS) // SIZE
LAWS: dict[str, Callable[[np.random.Generator], Numbers]] = {
    "prices": lambda rng: np.round(rng.lognormal(3, 1.2, ROWS), 2),
    "ratings": lambda rng: np.round(rng.uniform(1.2, 5, ROWS), 1),
    "counts": lambda rng: rng.poisson(8, ROWS).astype(float) + 2,
    "rates": lambda rng: rng.beta(2, 60, ROWS),
    "signed": lambda rng: rng.normal(size=ROWS) * 3,
}


def values(law: str, seed: int, missing: float = 0.1) -> Numbers:
    rng = np.random.default_rng(seed)
    found = LAWS[law](rng)
    found[rng.random(ROWS) < missing] = np.nan
    return single(found)


def single(found: Numbers) -> Numbers:
    """As the log holds it."""
    return found.astype(np.float32).astype(np.float64)


def evidence(expected: Numbers, served: Numbers, earlier: Callable[[int], Numbers] | None = None) -> NumberEvidence:
    served = single(served)
    return NumberEvidence(
        served=served, expected=expected, differs=differing_numbers(served, expected), requests=REQUESTS,
        earlier=earlier, scale=(2.0, 1.5), logarithmic=True,
    )  # fmt: skip


def where_known(x: Numbers, then: object) -> Numbers:
    return np.where(np.isnan(x), np.nan, then)


def edges(x: Numbers) -> Numbers:
    """The lower end of the interval that a value is in."""
    ends = np.nanquantile(x, [0, 0.2, 0.4, 0.6, 0.8])
    return ends[np.clip(np.searchsorted(ends, np.nan_to_num(x), side="right") - 1, 0, 4)]


LEFT_OUT = {"intervals", "edges", "clipped", "rounded"}
"""What the recomputed value may have, and the served one not."""

SKEWS: dict[str, tuple[Callable[[Numbers], Numbers], str]] = {
    "times 100": (lambda x: x * 100, skew_kinds.UNIT),
    "by 1000": (lambda x: x / 1000, skew_kinds.UNIT),
    "zero": (lambda x: np.where(np.isnan(x), 0, x), skew_kinds.ZERO_FOR_MISSING),
    "minus one": (lambda x: np.where(np.isnan(x), -1, x), skew_kinds.DEFAULT_FOR_MISSING),
    "nothing": (lambda x: np.full_like(x, np.nan), skew_kinds.MISSING),
    "one value": (lambda x: np.full_like(x, 7.5), skew_kinds.CONSTANT),
    "log1p": (lambda x: np.sign(x) * np.log1p(np.abs(x)), skew_kinds.TRANSFORM),
    "standardised": (lambda x: (np.sign(x) * np.log1p(np.abs(x)) - 2) / 1.5, skew_kinds.TRANSFORM),
    "cube root": (np.cbrt, skew_kinds.TRANSFORM),
    "sign": (np.negative, skew_kinds.TRANSFORM),
    "Fahrenheit": (lambda x: x * 1.8 + 32, skew_kinds.TRANSFORM),
    "bfloat16": (
        lambda x: (x.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32) + 0.0,
        skew_kinds.ROUNDED,
    ),
    "intervals": (
        lambda x: where_known(x, np.digitize(x, np.nanquantile(x, [0.2, 0.4, 0.6, 0.8]))),
        skew_kinds.TRANSFORM,
    ),
    "edges": (lambda x: where_known(x, edges(x)), skew_kinds.TRANSFORM),
    "clipped": (lambda x: np.clip(x, *np.nanquantile(x, [0.1, 0.9])), skew_kinds.TRANSFORM),
    "all but missing ones": (lambda x: where_known(x, 7.5), skew_kinds.CONSTANT),
    "offset": (lambda x: x + 273.15, skew_kinds.OFFSET),
    "default at times": (lambda x: np.where(np.arange(ROWS) % 4 == 0, -5.25, x), skew_kinds.DEFAULT),
}


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("law", LAWS)
def test_a_skew_of_a_number_is_named(law: str, skew: str) -> None:
    change, kind = SKEWS[skew]
    for seed in range(3):
        expected = values(law, seed)
        if differing_numbers(single(change(expected)), expected).sum() < 20:
            # As of small whole numbers, which bfloat16 holds.
            continue
        found = kind_of_number(evidence(expected, change(expected)))
        assert (found.name, found.explained >= 0.9) == (kind, True), found


@pytest.mark.parametrize("skew", sorted(LEFT_OUT))
@pytest.mark.parametrize("law", LAWS)
def test_a_step_that_only_the_recomputed_value_has_is_left_out(law: str, skew: str) -> None:
    made = np.round if skew == "rounded" else SKEWS[skew][0]
    for seed in range(3):
        served = values(law, seed)
        expected = single(made(served))
        if len(np.unique(expected[~np.isnan(expected)])) < 3 or differing_numbers(served, expected).sum() < 20:
            continue
        found = kind_of_number(evidence(expected, served))
        assert (found.name, "left out" in found.detail) == (skew_kinds.TRANSFORM, True), found


@pytest.mark.parametrize(("first", "shift"), [(0, 1), (0, -8), (9, 5), (14, 1)])
def test_a_number_that_is_an_hour_is_shifted_and_a_small_one_is_larger(first: int, shift: int) -> None:
    """Ten hours of a day; grades are numbers of the same size."""
    ts = (first * 60 + np.arange(ROWS)) * 60_000_000
    hours = (ts // 3_600_000_000 % 24).astype(np.float64)
    fields = evidence(hours, np.mod(hours + shift, 24))
    given = {name: getattr(fields, name) for name in fields.__slots__}
    assert kind_of_number(NumberEvidence(**{**given, "ts": ts})).text == f"shifted hour ({shift:+d} of 24)"
    grades = np.random.default_rng(first).integers(8, 14, ROWS).astype(np.float64)
    fields = evidence(grades, grades + shift)
    given = {name: getattr(fields, name) for name in fields.__slots__}
    assert kind_of_number(NumberEvidence(**{**given, "ts": ts})).text == f"offset ({shift:+d})"


def test_what_is_missing_elsewhere_too_is_another_feature() -> None:
    expected, other = values("prices", 1), values("rates", 2, missing=0.97)
    fields = evidence(expected, other)
    given = NumberEvidence(**{name: getattr(fields, name) for name in fields.__slots__} | {"others": {"rare": other}})
    assert kind_of_number(given).text == "another feature (rare)"


@given(law=st.sampled_from(sorted(LAWS)), seed=st.integers(0, 999), share=st.floats(0.05, 1.0))
def test_a_skew_of_some_requests_is_named_too(law: str, seed: int, share: float) -> None:
    expected, rng = values(law, seed), np.random.default_rng(seed)
    hit = np.repeat(rng.random(ROWS // SIZE) < share, SIZE)
    hit[: 2 * SIZE] = True
    found = kind_of_number(evidence(expected, np.where(hit, expected * 60, expected)))
    assert (found.name, found.detail) == (skew_kinds.UNIT, "×60")


@given(days=st.integers(1, 14), seed=st.integers(0, 999))
def test_a_stale_snapshot_is_named_with_its_age(days: int, seed: int) -> None:
    def on_day(age: int) -> Numbers:
        # Most keys change from day to day, some do not, some are new.
        rng, old = np.random.default_rng(seed), np.random.default_rng([seed, age])
        found = np.where(rng.random(ROWS) < 0.3, rng.beta(2, 60, ROWS), old.beta(2, 60, ROWS))
        found[rng.random(ROWS) < 0.02 * age] = np.nan
        return single(found)

    found = kind_of_number(evidence(on_day(0), on_day(days), on_day))
    assert (found.name, found.detail) == (skew_kinds.STALE, f"{days} day{'s' if days > 1 else ''} old")


def test_sparse_counts_of_a_stale_snapshot_are_no_constant() -> None:
    rng = np.random.default_rng(3)
    today = rng.poisson(0.2, ROWS).astype(float)
    before = np.where(rng.random(ROWS) < 0.5, 0.0, today)
    found = kind_of_number(evidence(today, before, lambda days: before if days == 1 else rng.poisson(0.1, ROWS) + 0.0))
    assert found.text == "stale snapshot (1 day old)"


def test_values_of_a_neighbour_are_named() -> None:
    expected = values("prices", 1, missing=0)
    found = kind_of_number(evidence(expected, np.roll(expected.reshape(-1, SIZE), 1, axis=1).ravel()))
    assert found.name == skew_kinds.OTHER_CANDIDATE


def test_an_age_of_another_time_zone_is_named() -> None:
    expected = values("prices", 1) * 5000
    given = evidence(single(expected), expected + 7200)
    fields = {name: getattr(given, name) for name in given.__slots__}
    found = kind_of_number(NumberEvidence(**{**fields, "is_age": True}))
    assert found.text == "shifted hour (+2 h)"


@given(law=st.sampled_from(sorted(LAWS)), seed=st.integers(0, 999))
def test_noise_has_no_kind(law: str, seed: int) -> None:
    expected = values(law, seed, missing=0)
    served = expected * np.random.default_rng([seed, 1]).uniform(1.5, 3, ROWS)
    assert kind_of_number(evidence(expected, served)).name == skew_kinds.UNEXPLAINED


@given(seed=st.integers(0, 999))
def test_what_is_rounded_to_single_precision_does_not_differ(seed: int) -> None:
    exact = np.random.default_rng(seed).lognormal(3, 4, ROWS)
    assert not differing_numbers(single(exact), single(single(exact))).any()
    assert differing_numbers(single(exact * (1 + 3e-6)), single(exact)).mean() > 0.99


def test_whole_numbers_differ_by_one() -> None:
    large = np.array([16_000_001.0, 3.0, np.nan, np.nan])
    assert differing_numbers(np.array([16_000_002.0, 3.0, np.nan, 0.0]), large).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v[:, ::-1], "order of the list (3, 2, 1, 0)"),
        (lambda v: v / np.linalg.norm(v, axis=1, keepdims=True), "transform left out (scaled to length 1)"),
        (lambda v: v / v.max(axis=1, keepdims=True), "transform left out (each scaled by a number of its own)"),
        (lambda v: v * 100, None),
        (lambda v: v + np.random.default_rng(1).normal(size=v.shape), None),
    ],
)
def test_a_skew_of_a_vector_is_named(change: Callable[[Numbers], Numbers], text: str | None) -> None:
    expected = np.random.default_rng(0).normal(size=(ROWS, 4))
    found = kind_of_vector(change(expected), expected, np.arange(ROWS) >= 100)
    assert (found and found.text) == text


HIGHEST = 40


def ids(seed: int, highest: int = HIGHEST) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.minimum(rng.zipf(1.3, ROWS) + 1, highest)[:, None].astype(np.int64)


def category(
    expected: NDArray[np.int64], served: NDArray[np.int64], keys: dict[int, str] | None = None, **more: object
) -> CategoryEvidence:
    return CategoryEvidence(
        served=served, expected=expected, differs=(served != expected).any(axis=1), requests=REQUESTS,
        ts=np.arange(ROWS) * 60_000_000, keys=keys or {n: f"k{n}" for n in range(2, HIGHEST + 1)},
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


@given(seed=st.integers(0, 500))
def test_rows_of_another_vocabulary_are_named(seed: int) -> None:
    expected = ids(seed)
    order = np.concatenate([[0, 1], 2 + np.random.default_rng(seed).permutation(HIGHEST - 1)])
    assert kind_of_category(category(expected, order[expected])).name == skew_kinds.VOCABULARY
    other = {f"k{n}": int(order[n]) for n in range(2, HIGHEST + 1)}
    found = kind_of_category(category(expected, order[expected], vocabularies={"abc": other}))
    assert found.text == "vocabulary (of abc)"


@pytest.mark.parametrize("hours", [1, -5, 12])
def test_shifted_hours_are_named(hours: int) -> None:
    keys = {n + 2: str((7 * n) % 24) for n in range(24)}
    rows = {key: row for row, key in keys.items()}
    expected = ids(1, 25)
    served = np.vectorize(lambda row: rows[str((int(keys[row]) + hours) % 24)])(expected)
    assert kind_of_category(category(expected, served, keys)).text == f"shifted hour ({hours:+d} h)"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda rows: np.zeros_like(rows), skew_kinds.MISSING),
        (lambda rows: np.ones_like(rows), skew_kinds.VOCABULARY),
        (lambda rows: np.full_like(rows, 4), skew_kinds.CONSTANT),
        (lambda rows: np.where(rows == 0, 9, rows), skew_kinds.DEFAULT_FOR_MISSING),
    ],
)
def test_a_skew_of_a_category_is_named(change: Callable[[NDArray[np.int64]], NDArray[np.int64]], kind: str) -> None:
    expected = ids(2)
    expected[::9] = 0
    assert kind_of_category(category(expected, change(expected))).name == kind


def test_lists_in_another_order_and_cut_ones_are_named() -> None:
    rng = np.random.default_rng(0)
    lists = np.stack([rng.permutation(HIGHEST - 2)[:6] + 2 for _ in range(ROWS)]).astype(np.int64)
    assert kind_of_category(category(lists, lists[:, ::-1])).name == category_kinds.ORDER
    cut = np.where(np.arange(6) < 4, lists, -1)
    assert kind_of_category(category(lists, cut)).name == category_kinds.CUT


def test_ids_at_random_have_no_kind() -> None:
    rng = np.random.default_rng(0)
    expected, served = rng.integers(2, HIGHEST, (ROWS, 1)), rng.integers(2, HIGHEST, (ROWS, 1))
    assert kind_of_category(category(expected, served)).name == skew_kinds.UNEXPLAINED
