"""Mistakes of the jobs that make rows: each changes what it says, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills import fault_named, outcome_mistakes, registered_faults, value_mistakes
from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.training.drilling.drilled_run import prepare_drill
from ctr_pipeline.training.drilling.made_up_rows import make_rows

MISTAKES = [
    fault
    for fault in registered_faults()
    if any(f'name="{fault.name}"' in Path(module.__file__).read_text() for module in (outcome_mistakes, value_mistakes))
]
ROWS = make_rows(4_000, 5)


def changed(name: str, part: str = "rows") -> PackedSplit:
    found: PackedSplit = getattr(fault_named(name), part)(ROWS, np.random.default_rng(7))
    return found


def differing(rows: PackedSplit) -> set[str]:
    """Arrays that are not those of the healthy rows."""
    return {
        name
        for name, array in rows.arrays().items()
        if not np.array_equal(array, ROWS.arrays()[name], equal_nan=array.dtype.kind == "f")
    }


def rate(rows: PackedSplit, task: int = 0) -> float:
    known = rows.labels[:, task] >= 0
    return float((rows.labels[known, task] == 1).mean())


def correlation(first: NDArray[np.float32], second: NDArray[np.int8]) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def test_each_is_of_a_family_that_is_only_scored() -> None:
    assert len(MISTAKES) == 16
    assert {fault.half for fault in MISTAKES} == {"scored"}
    assert len({fault.family for fault in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize("part", ["rows", "other_rows"])
@pytest.mark.parametrize("fault", MISTAKES, ids=lambda fault: fault.name)
def test_rows_depend_on_the_seed_alone_and_stay_rows(fault: Fault, part: str) -> None:
    first, again = (getattr(fault, part)(ROWS, np.random.default_rng(7)) for _ in range(2))
    for name, array in first.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
        assert array.dtype == ROWS.arrays()[name].dtype
        assert len(array) == len(first)
    assert first.ids.min() >= 0
    assert (first.ids.max(axis=0) < (60, 200, 6)).all()
    assert np.isfinite(first.numeric).all()
    assert np.isin(first.labels, (-1, 0, 1)).all()
    # A cart follows a click.
    assert not ((first.labels[:, 1] == 1) & (first.labels[:, 0] == 0)).any()


@pytest.mark.parametrize(
    ("name", "part", "arrays"),
    [
        ("click_of_the_session", "rows", {"labels"}),
        ("outcomes_deleted", "rows", {"labels"}),
        ("clicks_of_an_ad_merged", "rows", {"labels"}),
        ("conversions_alone_reported", "rows", {"labels"}),
        ("later_in_one_region", "rows", {"labels"}),
        ("clicks_of_the_whole_day", "rows", {"numeric"}),
        ("clicks_of_the_whole_day", "other_rows", {"numeric"}),
        ("cap_lowered", "rows", set()),
        ("cap_lowered", "other_rows", {"numeric"}),
        ("logged_twice", "rows", {"numeric"}),
        ("logged_twice", "other_rows", set()),
        ("ids_of_parents", "rows", {"ids"}),
        ("ids_of_parents", "other_rows", set()),
        ("feature_refreshed_seldom", "rows", {"numeric"}),
        ("mean_where_missing", "other_rows", {"numeric"}),
        ("sign_of_later_rows", "rows", set()),
        ("sign_of_later_rows", "other_rows", {"numeric"}),
        ("few_buckets", "rows", {"ids"}),
        ("few_buckets", "other_rows", {"ids"}),
        ("swapped_in_a_slice", "rows", {"numeric"}),
    ],
)
def test_what_it_does_not_speak_of_stays(name: str, part: str, arrays: set[str]) -> None:
    assert differing(changed(name, part)) == arrays


def test_outcomes_within_a_session_keep_their_number() -> None:
    found = changed("click_of_the_session")
    np.testing.assert_array_equal(np.sort(found.labels, axis=0), np.sort(ROWS.labels, axis=0))
    moved = np.flatnonzero((found.labels != ROWS.labels).any(axis=1))
    assert len(moved) > 1000
    # Within a session of at most 8 rows no sum up to a row differs by more than the clicks of one.
    assert np.abs(np.cumsum(found.labels[:, 0]) - np.cumsum(ROWS.labels[:, 0])).max() <= 8


def test_outcomes_of_the_first_rows_are_none() -> None:
    labels = changed("outcomes_deleted").labels
    assert (labels[:1_400] <= 0).all()
    np.testing.assert_array_equal(labels[2_000:], ROWS.labels[2_000:])


def test_merged_clicks_are_those_of_ads_that_are_often_clicked() -> None:
    found, ads = changed("clicks_of_an_ad_merged"), ROWS.ids[:, 0]
    shares = [
        found.labels[ads == ad, 0].sum() / max(ROWS.labels[ads == ad, 0].sum(), 1) for ad in (2, 3, 4, 30, 31, 32)
    ]
    assert max(shares[:3]) < 0.5
    assert np.mean(shares[3:]) > 0.7


def test_a_day_is_there_many_times() -> None:
    _, times = np.unique(changed("day_loaded_again").ts, return_counts=True)
    assert set(times) == {1, times.max()}
    assert 9 <= times.max() <= 14
    assert np.mean(times > 1) == pytest.approx(1 / 14, abs=0.001)


def test_training_rows_reach_into_the_validation(tmp_path: Path) -> None:
    splits = prepare_drill(fault_named("split_not_cut"), 1, tmp_path).dataset.splits
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes["train"] == 12_000 + sum(size for name, size in sizes.items() if name != "train")
    read = {row.tobytes() for row in splits["train"].numeric}
    assert all(row.tobytes() in read for name in ("validation", "test") for row in splits[name].numeric)


def test_a_count_of_the_whole_day_contains_the_outcome() -> None:
    click = (ROWS.labels[:, 0] == 1).astype(np.int8)
    whole, before = (changed("clicks_of_the_whole_day", part).numeric[:, 0] for part in ("rows", "other_rows"))
    assert correlation(whole, click) > 0.35
    assert abs(correlation(before, click)) < 0.1
    assert (before + click <= whole).all()
    assert (before[::5] == 0).all()


def test_of_clicks_conversions_alone_are_known() -> None:
    found = changed("conversions_alone_reported")
    clicked = found.labels[:, 0] == 1
    assert set(np.unique(found.labels[clicked, 1])) == {-1, 1}
    assert rate(found, 1) > rate(ROWS, 1) * 1.1
    assert rate(found) == rate(ROWS)


def test_labels_of_a_region_are_moved() -> None:
    found = changed("later_in_one_region")
    np.testing.assert_array_equal(np.sort(found.labels, axis=0), np.sort(ROWS.labels, axis=0))
    assert 500 < (found.labels != ROWS.labels).any(axis=1).sum() < 1_600


def test_values_are_limited_logged_and_filled() -> None:
    own = ROWS.numeric[:, 1]
    capped = changed("cap_lowered", "other_rows").numeric[:, 1]
    assert capped.max() < -0.1
    np.testing.assert_array_equal(capped[own < -0.7], own[own < -0.7])
    logged = changed("logged_twice").numeric[:, 1]
    np.testing.assert_allclose(np.sign(own) * np.expm1(np.expm1(np.abs(logged))), own, rtol=1e-3, atol=1e-6)
    filled = changed("mean_where_missing", "other_rows").numeric[:, 1]
    assert 0.45 < (filled == 0).mean() < 0.75
    np.testing.assert_array_equal(filled[filled != 0], own[filled != 0])
    np.testing.assert_array_equal(changed("sign_of_later_rows", "other_rows").numeric[:, 1], -own)


def test_a_feature_that_is_refreshed_seldom_has_runs_of_one_value() -> None:
    stale = changed("feature_refreshed_seldom").numeric[:, 1]
    runs = np.diff(np.flatnonzero(np.diff(stale, prepend=np.nan) != 0))
    assert len(np.unique(runs)) == 1
    assert 20 <= runs[0] < 60
    np.testing.assert_array_equal(stale[:: runs[0]], ROWS.numeric[:: runs[0], 1])


def test_ids_become_those_of_groups_or_buckets() -> None:
    parents, buckets = (changed(name).ids[:, 0] for name in ("ids_of_parents", "few_buckets"))
    assert len(np.unique(parents[:2_000])) <= 10
    np.testing.assert_array_equal(parents[3_400:], ROWS.ids[3_400:, 0])
    assert len(np.unique(buckets)) == 5
    # Each ad has one bucket.
    assert len(np.unique(np.stack([buckets, ROWS.ids[:, 0]]), axis=1).T) == len(np.unique(ROWS.ids[:, 0]))


def test_numbers_of_one_version_are_in_each_others_place() -> None:
    found = changed("swapped_in_a_slice").numeric
    swapped = (found == ROWS.numeric[:, ::-1]).all(axis=1)
    assert 0.35 < swapped.mean() < 0.65
    np.testing.assert_array_equal(found[~swapped], ROWS.numeric[~swapped])


def test_training_rows_of_a_fault_of_the_splits_are_those_that_the_other_changes_left(tmp_path: Path) -> None:
    fault = replace(
        fault_named("sign_of_later_rows"),
        splits=lambda splits, _: {**splits, "train": splits["validation"]},
    )
    splits = prepare_drill(fault, 1, tmp_path).dataset.splits
    np.testing.assert_array_equal(splits["train"].numeric, splits["validation"].numeric)
