"""Mistakes in logs, joins, samplers and features, of families that were only scored until rules were written for them.

Which causes of :mod:`ctr_pipeline.gradients.triage.causes` are right names for each was decided from the fault, before any of
them met a rule. Each makes the normalised entropy of the validation worse by at least .01 than the same training without it has,
with each of the seeds 1 to 3; mistakes that were tried and do less harm are not here.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.adapters.batch import BatchView, content_hash
from ctr_pipeline.gradients.drills.fault import Fault, register_fault

_ADS, _FIRST = 60, 2
"""Rows of the first id column, and the first of them that is a word of its vocabulary."""


def _chosen(rows: PackedSplit, at: NDArray[Any]) -> PackedSplit:
    return replace(rows, **{name: array[at] for name, array in rows.arrays().items()})


def _with_ads(rows: PackedSplit, ads: NDArray[Any]) -> PackedSplit:
    ids = rows.ids.copy()
    ids[:, 0] = ads
    return replace(rows, ids=ids)


def _with_rating(rows: PackedSplit, rating: NDArray[Any]) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[:, 1] = rating
    return replace(rows, numeric=numeric)


def _weighted(rows: PackedSplit, of_row: NDArray[Any]) -> PackedSplit:
    """Rows with one weight for all tasks, of mean 1."""
    weights = np.repeat((of_row / of_row.mean()).astype(np.float32)[:, None], rows.weights.shape[1], axis=1)
    return replace(rows, weights=weights)


# Which rows are there, and how much they count.


def _robots(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    labels = rows.labels.copy()
    labels[rng.random(len(rows)) < rng.uniform(0.1, 0.2), 0] = 1
    return replace(rows, labels=labels)


def _fewer_without_click(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    kept = (rows.labels[:, 0] == 1) | (rng.random(len(rows)) < rng.uniform(0.1, 0.25))
    return _chosen(rows, np.flatnonzero(kept))


def _one_segment(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    return _chosen(rows, np.flatnonzero(rows.numeric[:, 1] > rng.uniform(0.3, 0.8)))


def _recent(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    age = np.arange(len(rows))[::-1] / len(rows)
    return _weighted(rows, np.exp(-age / rng.uniform(0.003, 0.006)))


def _clicks_count_more(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    return _weighted(rows, np.where(rows.labels[:, 0] == 1, rng.uniform(5, 10), 1.0))


def _clicks_without_weight(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    lost = (rows.labels[:, 0] == 1) & (rng.random(len(rows)) < rng.uniform(0.6, 0.8))
    return _weighted(rows, np.where(lost, 0.0, 1.0))


# Ids.


def _renumbered(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    number = np.arange(_ADS)
    number[_FIRST:] = _FIRST + rng.permutation(_ADS - _FIRST)
    return _with_ads(rows, number[rows.ids[:, 0]])


def _two_hash_seeds(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    other = rng.random(len(rows)) < rng.uniform(0.4, 0.6)
    return _with_ads(rows, np.where(other, _renumbered(rows, rng).ids[:, 0], rows.ids[:, 0]))


def _column_of_queries(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    return _with_ads(rows, _FIRST + (rows.ids[:, 1] - _FIRST) % (_ADS - _FIRST))


# Numbers.


def _some_hours_off(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    return _with_rating(rows, np.roll(rows.numeric[:, 1], int(rng.integers(50, 500))))


def _whole_numbers(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    return _with_rating(rows, np.trunc(rows.numeric[:, 1] / 5))


def _sentinel(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    return _with_rating(rows, np.where(rng.random(len(rows)) < rng.uniform(0.3, 0.6), -999.0, rows.numeric[:, 1]))


def _columns_exchanged(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    return replace(rows, numeric=rows.numeric[:, ::-1].copy())


# Batches.


def _other_ads(batches: Iterator[BatchView], _: int, rng: np.random.Generator) -> Iterator[BatchView]:
    for batch in batches:
        ids, count = batch.ids.clone(), len(batch.rows)
        drawn = torch.from_numpy(rng.integers(_FIRST, _ADS, count)).to(ids.dtype)
        ids[:, 0] = torch.where(torch.from_numpy(rng.random(count) < 0.6), drawn, ids[:, 0])
        yield replace(batch, ids=ids)


def _rolled(batches: Iterator[BatchView], step: int, _: np.random.Generator) -> Iterator[BatchView]:
    for at, batch in enumerate(batches, step):
        yield replace(batch, labels=batch.labels.roll(1, dims=0)) if at % 2 else batch


def _same_few(batches: Iterator[BatchView], _: int, rng: np.random.Generator) -> Iterator[BatchView]:
    read = list(batches)
    columns = {name: torch.cat([batch.tensors()[name] for batch in read[:3]]) for name in read[0].tensors()}
    for batch in read:
        at = torch.from_numpy(rng.integers(0, len(columns["labels"]), len(batch.rows)))
        changed: dict[str, Any] = {name: column[at] for name, column in columns.items()}
        drawn = replace(batch, **changed)
        yield replace(drawn, content=content_hash(drawn))


for _fault in (
    Fault(name="robots_click", family="robots", symptom="predictions are too high, and ads are told apart less",
          cause="robots click whatever they are shown", fix="filter their sessions", rows=_robots,
          named=("label_noise", "base_rate_shift"), located=("click", "cart after click")),
    Fault(name="sampled_without_correction", family="negative_sampling", symptom="predictions are several times too high",
          cause="most rows without a click are left out, and nothing corrects for it", fix="weight the others by the inverse of their share",
          rows=_fewer_without_click, named=("base_rate_shift",), located=("click", "cart")),
    Fault(name="one_segment_logged", family="selection", symptom="predictions are wrong outside of one segment",
          cause="rows of one segment alone reached the log", fix="log all of them", rows=_one_segment,
          named=("feature_drift", "base_rate_shift"), located=("rating",)),
    Fault(name="decay_of_hours", family="time_decay", symptom="the model knows little", cause="weights decay with the age of a row within "
          "hours, where days were meant", fix="decay by days", rows=_recent, named=("ips_unclipped",), located=("click", "cart", "weights")),
    Fault(name="clicks_count_more", family="weights_by_outcome", symptom="predictions are several times too high",
          cause="weights that were made for ranking count a click several times", fix="weight by what is known before the outcome",
          rows=_clicks_count_more, named=("class_weights",), located=("click", "weights")),
    Fault(name="clicks_without_weight", family="weights_by_outcome", symptom="predictions are too low",
          cause="the weight of most rows with a click was not found in a join and is 0", fix="fill weights with 1",
          rows=_clicks_without_weight, named=("class_weights", "base_rate_shift"), located=("click", "weights")),
    Fault(name="vocabulary_rebuilt_later", family="remapping", symptom="training is well, validation is not",
          cause="ids of later rows are numbered by a vocabulary that was built again", fix="number them by the model's vocabulary",
          other_rows=_renumbered, named=("ids_misplaced", "train_serving_skew"), located=("ad",)),
    Fault(name="two_hash_seeds", family="hash_seed", symptom="ads are told apart less", cause="two writers of the log hash ids with seeds of "
          "their own", fix="fix the seed", rows=_two_hash_seeds, named=("ids_misplaced", "feature_permuted"), located=("ad",)),
    Fault(name="other_column_read", family="wrong_column", symptom="ads are not told apart", cause="the column of another feature is read "
          "in place of a feature's own", fix="read columns by name", rows=_column_of_queries, other_rows=_column_of_queries,
          named=("feature_ignored", "feature_permuted", "feature_missing", "ids_misplaced"), located=("ad",)),
    Fault(name="feature_of_another_hour", family="time_zone", symptom="a good feature says nothing any more",
          cause="times of a feature and of impressions are of different zones", fix="keep times in UTC", rows=_some_hours_off,
          named=("feature_permuted",), located=("rating",)),
    Fault(name="whole_numbers", family="integer_division", symptom="a feature is 0 for nearly all rows",
          cause="a ratio is computed by an integer division", fix="divide floating-point numbers", rows=_whole_numbers,
          other_rows=_whole_numbers, named=("feature_missing",), located=("rating",)),
    Fault(name="sentinel_for_missing", family="sentinel", symptom="some later rows are predicted as extreme",
          cause="later rows have -999 where a number is missing", fix="leave it missing", other_rows=_sentinel,
          named=("feature_drift", "train_serving_skew", "unnormalised_feature", "feature_missing"), located=("rating",)),
    Fault(name="columns_exchanged_later", family="column_order", symptom="training is well, validation is not",
          cause="two numbers of later rows are in each other's column", fix="read columns by name", other_rows=_columns_exchanged,
          named=("train_serving_skew", "feature_drift", "feature_permuted"), located=("rating", "price")),
    Fault(name="augmented_ids", family="augmentation", symptom="ads are told apart less", cause="an augmentation replaces most ids by "
          "others", fix="replace few, by the unknown one", batches=_other_ads, named=("ids_misplaced", "feature_permuted"),
          located=("ad",)),
    Fault(name="collated_wrong", family="collation", symptom="learning is half as good", cause="one of two readers puts labels one row further",
          fix="collate rows as a whole", batches=_rolled, named=("label_permute", "row_shift", "label_noise"),
          located=("click", "cart")),
    Fault(name="few_rows_drawn", family="sampler", symptom="validation is worse with each epoch", cause="the sampler draws from the first rows "
          "alone", fix="draw from all of them", batches=_same_few, named=("stale_batch", "duplicate_rows")),
):  # fmt: skip
    register_fault(_fault)
