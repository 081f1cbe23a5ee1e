"""Faults of logs, labels, joins and of the order of rows."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.drills.fault import Fault, register_fault


def _one_further(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    ids = rows.ids.copy()
    ids[:, 0] = np.where(ids[:, 0] < 59, ids[:, 0] + 1, 2)
    return replace(rows, ids=ids)


def _mostly_unknown(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    ids = rows.ids.copy()
    ids[rng.random(len(rows)) < rng.uniform(0.5, 0.8), 0] = 1
    return replace(rows, ids=ids)


def _exchanged(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    return replace(rows, labels=rows.labels[:, ::-1].copy())


def _inverted(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    labels = rows.labels.copy()
    labels[:, 0] = 1 - labels[:, 0]
    return replace(rows, labels=labels)


def _not_yet_known(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    labels = rows.labels.copy()
    late = np.arange(len(rows)) > len(rows) * rng.uniform(0.3, 0.6)
    open_ = late[:, None] & (labels == 1) & (rng.random(labels.shape) < 0.9)
    labels[open_] = 0
    # What had no click has no later outcome.
    labels[(labels[:, 0] == 0) & (labels[:, 1] == 1), 1] = 0
    return replace(rows, labels=labels)


def _fanned_out(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    times = np.where(rows.labels[:, 0] == 1, int(rng.integers(3, 7)), 1)
    chosen = np.repeat(np.arange(len(rows)), times)
    return replace(rows, **{name: array[chosen] for name, array in rows.arrays().items()})


def _other_statistics(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[:, 1] = rng.uniform(1.5, 3) + rng.uniform(2, 4) * numeric[:, 1]
    return replace(rows, numeric=numeric)


def _in_cents(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[rng.random(len(rows)) < rng.uniform(0.2, 0.5), 0] *= 100
    return replace(rows, numeric=numeric)


def _of_another_row(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[:, 1] = numeric[rng.permutation(len(rows)), 1]
    return replace(rows, numeric=numeric)


def _absent(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[:, 1] = np.nan
    return replace(rows, numeric=numeric)


def _some_negative(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    weights = rows.weights.copy()
    weights[rng.random(len(rows)) < 0.01] *= -1
    return replace(rows, weights=weights)


def _by_label(batches: Iterator[BatchView], _: int, __: np.random.Generator) -> Iterator[BatchView]:
    """The batches of an epoch, with all rows in the order of their first label."""
    read = list(batches)
    columns = {name: torch.cat([batch.tensors()[name] for batch in read]) for name in read[0].tensors()}
    order = torch.argsort(columns["labels"][:, 0].int(), stable=True)
    start = 0
    for batch in read:
        chosen = order[start : start + len(batch.rows)]
        start += len(batch.rows)
        changed: dict[str, Any] = {name: column[chosen] for name, column in columns.items()}
        yield replace(batch, **changed)


for _fault in (
    Fault(name="ids_one_further", family="vocabulary", symptom="validation is worse than a constant, training is not",
          cause="ids of the training rows stand one row further than the vocabulary says", fix="pack with one vocabulary",
          rows=_one_further, named=("ids_misplaced", "wrong_offsets"), located=("ad",)),
    Fault(name="mostly_unknown", family="unknown_values", symptom="ads are told apart less than they were",
          cause="most ids of a feature are read as unknown", fix="make the keys of log and vocabulary alike",
          rows=_mostly_unknown, named=("hash_clip", "feature_missing", "ids_misplaced"), located=("ad",)),
    Fault(name="tasks_exchanged", family="task_labels", symptom="more carts than clicks", cause="labels of two tasks are exchanged",
          fix="name the columns", rows=_exchanged, named=("mask_inverted",), located=("click", "cart", "cart after click")),
    Fault(name="clicks_inverted", family="label_values", symptom="an AUC below one half", cause="labels have 1 where no click was",
          fix="give clicks the label 1", rows=_inverted, named=("label_flip", "mask_inverted"), located=("click", "cart after click")),
    Fault(name="open_window", family="maturity", symptom="predictions are too low", cause="outcomes of the last rows were not yet known "
          "and count as none", fix="wait for the window to close, or mask open labels", rows=_not_yet_known,
          named=("open_window", "base_rate_shift"), located=("click", "cart")),
    Fault(name="join_fan_out", family="fan_out", symptom="predictions are too high", cause="a join repeats the rows with a click",
          fix="join on a unique key", rows=_fanned_out, named=("duplicate_rows", "base_rate_shift")),
    Fault(name="other_statistics", family="statistics", symptom="a feature means one thing in training and another afterwards",
          cause="a number of the training rows was standardised by other statistics", fix="fit statistics once, on these rows",
          rows=_other_statistics, named=("unnormalised_feature", "feature_drift"), located=("rating",)),
    Fault(name="price_in_cents", family="unit", symptom="a feature has two humps", cause="some rows have a price in cents",
          fix="convert at ingestion", rows=_in_cents, named=("unnormalised_feature", "feature_drift"), located=("price",)),
    Fault(name="feature_of_another_row", family="feature_join", symptom="a good feature says nothing any more",
          cause="a feature was joined by place", fix="join it by its key", rows=_of_another_row, named=("feature_permuted",),
          located=("rating",)),
    Fault(name="absent_at_scoring", family="serving_skew", symptom="training is well, validation is not",
          cause="a feature of the training is missing where the model is used", fix="train with what is there when serving",
          other_rows=_absent, named=("train_serving_skew", "feature_drift", "feature_missing"), located=("rating",)),
    Fault(name="negative_weights", family="weight_values", symptom="some rows are unlearnt", cause="some weights are negative",
          fix="limit weights", rows=_some_negative, named=("bad_weight",), located=("weights",)),
    Fault(name="rows_in_order", family="order", symptom="the loss has the period of an epoch", cause="rows are read in the order of "
          "their labels", fix="shuffle rows", batches=_by_label, named=("rows_not_shuffled", "stale_batch")),
):  # fmt: skip
    register_fault(_fault)
