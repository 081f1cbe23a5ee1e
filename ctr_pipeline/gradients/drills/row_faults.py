"""Faults of the training rows."""

from dataclasses import replace

import numpy as np

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills.fault import Fault, register_fault


def _permuted(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    return replace(rows, labels=rows.labels[rng.permutation(len(rows))])


def _shifted(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    return replace(rows, labels=np.roll(rows.labels, int(rng.choice([-2, -1, 1, 2])), axis=0))


def _leak(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    size = rng.choice([-1, 1]) * rng.uniform(0.5, 3)
    numeric[:, rng.integers(2)] = np.where(rows.labels[:, 0] == 1, size, -size)
    return replace(rows, numeric=numeric)


def _noisy_leak(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    wrong = rng.random(len(rows)) < rng.uniform(0.05, 0.12)
    labels = rows.labels.copy()
    labels[wrong, 0] = 1 - labels[wrong, 0]
    return replace(rows, numeric=_leak(replace(rows, labels=labels), rng).numeric)


def _unnormalised(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    numeric, scale = rows.numeric.copy(), 10 ** rng.uniform(3, 6)
    numeric[:, 1] = 10 * scale + scale * numeric[:, 1]
    return replace(rows, numeric=numeric)


def _infinite(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    numeric = rows.numeric.copy()
    numeric[int(rng.integers(len(rows))), 1] = np.inf
    return replace(rows, numeric=numeric)


def _cut_hash(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    ids, column = rows.ids.copy(), int(rng.integers(2))
    ids[ids[:, column] > rng.integers(4, 10), column] = (59, 199)[column]
    return replace(rows, ids=ids)


def _outside(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    ids = rows.ids.copy()
    ids[int(rng.integers(len(rows))), 0] = 10_000
    return replace(rows, ids=ids)


def _inverted(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    labels = rows.labels.copy()
    labels[:, 1] = (labels[:, 0] == 0) & (rng.random(len(rows)) < rng.uniform(0.2, 0.6))
    return replace(rows, labels=labels)


def _heavy(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    weights = (1 / rng.uniform(10 ** rng.uniform(-5, -3.5), 1.0, rows.weights.shape) ** 2).astype(np.float32)
    return replace(rows, weights=weights / weights.mean())


def spread_weights(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    """Rows with weights from .2 to 5, as inverse propensities have them, of mean 1."""
    weights = np.exp(rng.uniform(-1.6, 1.6, rows.weights.shape)).astype(np.float32)
    return replace(rows, weights=weights / weights.mean())


for _fault in (
    Fault(name="label_permute", family="labels", symptom="the loss stays at that of a constant; AUC .5",
          cause="labels stand beside rows that are not theirs, in random order", fix="join labels by their key", rows=_permuted),
    Fault(name="row_shift", family="labels", symptom="the loss stays at that of a constant; AUC .5",
          cause="labels are shifted by some rows", fix="join labels by their key", rows=_shifted),
    Fault(name="leak", family="leakage", symptom="an AUC of 1", cause="a feature is made of the outcome",
          fix="read the feature as of the impression", rows=_leak,
          located=("rating", "price")),
    Fault(name="noisy_leak", family="leakage", symptom="an AUC that is too good", cause="a feature is mostly the outcome",
          fix="read the feature as of the impression", rows=_noisy_leak, named=("leak",),
          located=("rating", "price")),
    Fault(name="unnormalised_feature", family="scale", symptom="a feature has no influence: it is limited to one value",
          cause="training statistics of another scale", fix="pack the dataset again", rows=_unnormalised,
          located=("rating",)),
    Fault(name="infinite_feature", family="scale", symptom="the training stops at some step",
          cause="a number is infinite in one row", fix="make it finite or missing at ingestion", rows=_infinite,
          located=("rating",)),
    Fault(name="hash_clip", family="ids", symptom="the AUC falls; one row of a table learns from most of the log",
          cause="ids are cut off at the end of the table", fix="build the vocabulary of these rows", rows=_cut_hash,
          located=("ad", "query")),
    Fault(name="id_out_of_range", family="ids", symptom="an index error or a silent read", cause="an id above the table's height",
          fix="pack the dataset again", rows=_outside,
          located=("ad",)),
    Fault(name="mask_inverted", family="funnel", symptom="conversions are predicted where no click is",
          cause="the mask of the later task is inverted", fix="take conversions of clicked rows", rows=_inverted,
          located=("cart", "click", "cart after click")),
    Fault(name="ips_unclipped", family="propensity", symptom="a few rows decide the gradient; norms jump",
          cause="inverse propensities are not limited", fix="limit weights, and let their mean be 1", rows=_heavy,
          located=("click", "cart")),
):  # fmt: skip
    register_fault(_fault)
