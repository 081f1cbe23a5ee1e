"""Mistakes of the jobs that make features; their families are only scored.

Which causes of :mod:`ctr_pipeline.gradients.triage.causes` are right names for each was decided from the fault, before any of
them was run.
"""

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills.fault import Fault, register_fault
from ctr_pipeline.gradients.drills.row_changes import FIRST_WORD, with_ids, with_number

_AD, _RATING = 0, 1


def _rating(rows: PackedSplit) -> NDArray[np.float32]:
    values: NDArray[np.float32] = rows.numeric[:, _RATING]
    return values


def _capped(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    return with_number(rows, _RATING, np.minimum(_rating(rows), rng.uniform(-0.6, -0.2)))


def _logged_twice(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    values = _rating(rows)
    for _again in range(2):
        values = np.sign(values) * np.log1p(np.abs(values))
    return with_number(rows, _RATING, values)


def _of_the_parent(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    """Ads of most rows have the id of the first ad of their group."""
    group, ads = int(rng.integers(6, 12)), rows.ids[:, _AD]
    parent = np.where(ads < FIRST_WORD, ads, FIRST_WORD + (ads - FIRST_WORD) // group * group)
    early = np.arange(len(rows)) < len(rows) * rng.uniform(0.6, 0.8)
    return with_ids(rows, _AD, np.where(early, parent, ads))


def _of_the_last_refresh(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    at = np.arange(len(rows))
    return with_number(rows, _RATING, _rating(rows)[at - at % int(rng.integers(20, 60))])


def _mean_where_missing(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    missing = rng.random(len(rows)) < rng.uniform(0.5, 0.7)
    return with_number(rows, _RATING, np.where(missing, 0.0, _rating(rows)))


def _other_sign(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    return with_number(rows, _RATING, -_rating(rows))


def _few_buckets(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    hashed = rows.ids[:, _AD].astype(np.int64) * 2_654_435_761 % 2**32
    return with_ids(rows, _AD, FIRST_WORD + hashed // 2**16 % 5)


def _swapped_in_a_slice(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    """Two numbers are exchanged in the rows of one version of the app."""
    version = rng.random(len(rows)) < rng.uniform(0.4, 0.6)
    return with_number(with_number(rows, _RATING, np.where(version, rows.numeric[:, 0], _rating(rows))), 0,
                       np.where(version, _rating(rows), rows.numeric[:, 0]))  # fmt: skip


for _fault in (
    Fault(name="cap_lowered", family="cap", half="scored", symptom="training is well, validation is not", cause="the cap of a feature of later "
          "rows is far below that of the training rows", fix="cap both alike", other_rows=_capped,
          named=("feature_drift", "train_serving_skew"), located=("rating",)),
    Fault(name="logged_twice", family="transform", half="scored", symptom="a feature's influence is too large", cause="the logarithm of a "
          "feature of the training rows was taken at ingestion and once more in a job", fix="take it in one place", rows=_logged_twice,
          named=("unnormalised_feature", "train_serving_skew", "feature_drift"), located=("rating",)),
    Fault(name="ids_of_parents", family="taxonomy", half="scored", symptom="ads are told apart less", cause="most rows of the log have the id "
          "of a group of ads in place of that of the ad", fix="write the ad's own id", rows=_of_the_parent,
          named=("hash_clip", "ids_misplaced", "feature_drift", "train_serving_skew"), located=("ad",)),
    Fault(name="feature_refreshed_seldom", family="freshness", half="scored", symptom="a good feature says nothing any more",
          cause="training rows have a feature as of its last refresh, which was for another impression", fix="read it at the impression's "
          "time", rows=_of_the_last_refresh, named=("feature_permuted", "train_serving_skew"), located=("rating",)),
    Fault(name="mean_where_missing", family="imputation", half="scored", symptom="training is well, validation is not",
          cause="the feature is missing in most later rows, and the mean is written in its place", fix="repair its source, and leave it "
          "missing", other_rows=_mean_where_missing, named=("feature_missing", "feature_drift", "train_serving_skew"),
          located=("rating",)),
    Fault(name="sign_of_later_rows", family="sign_convention", half="scored", symptom="training is well, validation is worse than a constant",
          cause="later rows have a feature with the other sign", fix="agree on a sign", other_rows=_other_sign,
          named=("train_serving_skew",), located=("rating",)),
    Fault(name="few_buckets", family="hash_buckets", half="scored", symptom="ads are told apart less", cause="ids are hashed to five buckets",
          fix="hash to more buckets than there are ids", rows=_few_buckets, other_rows=_few_buckets, named=("hash_clip",),
          located=("ad",)),
    Fault(name="swapped_in_a_slice", family="app_version", half="scored", symptom="a good feature says less", cause="one version of the app "
          "writes two numbers in each other's place", fix="name the fields", rows=_swapped_in_a_slice,
          named=("feature_drift", "train_serving_skew", "feature_permuted", "unnormalised_feature"), located=("rating", "price")),
):  # fmt: skip
    register_fault(_fault)
