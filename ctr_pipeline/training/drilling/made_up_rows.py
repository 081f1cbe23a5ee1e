"""Made-up rows that a ranker can learn from in seconds, and their layout."""

from dataclasses import replace

import numpy as np

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.features.layout import PADDING, IdColumn, Layout, NumericColumn, Pooled

IDS = (60, 200, 6)

LIST = IdColumn("seen", "history", 80, 4, Pooled(length=4, pooling="mean", keep="last"))
"""A list of ids, for faults that need one."""

LAYOUT = Layout(
    numeric=(
        NumericColumn("price", "dense", "signed_log1p", 2.7, False, 1.3, 0.65),
        NumericColumn("rating", "dense", "none", 0.0, False, 0.0, 1.0),
    ),
    ids=tuple(
        IdColumn(name, "categorical", rows, 4) for name, rows in zip(("ad", "query", "device"), IDS, strict=True)
    ),
    tasks=("click", "cart"),
    parents=(-1, 0),
)


def make_rows(count: int, seed: int) -> PackedSplit:
    """Rows with a signal in an id, a number and their order of frequency; clicks, and carts after some of them."""
    rng = np.random.default_rng(seed)
    numeric = np.stack([rng.lognormal(1.0, 1.0, count), rng.normal(size=count)], axis=1).astype(np.float32)
    # As in a vocabulary, the rows from 2 on are in order of falling frequency.
    columns = [2 + np.minimum(rng.exponential(height / 5, count), height - 3).astype(np.int32) for height in IDS]
    ids = np.stack(columns, axis=1)
    taste = np.random.default_rng(99).normal(size=max(IDS))
    click = rng.random(count) < 1 / (1 + np.exp(1.5 - taste[ids[:, 0]] - 0.8 * numeric[:, 1]))
    cart = click & (rng.random(count) < 0.4)
    labels = np.stack([click, cart], axis=1).astype(np.int8)
    labels[rng.random(count) < 0.1, 1] = -1
    return PackedSplit(
        numeric=numeric,
        ids=ids,
        labels=labels,
        weights=np.ones((count, 2), dtype=np.float32),
        ts=np.arange(count, dtype=np.int64),
        user=np.full(count, -1, dtype=np.int64),
        position=np.zeros(count, dtype=np.int16),
        random=np.zeros(count, dtype=np.bool_),
    )


def with_list(rows: PackedSplit, seed: int) -> PackedSplit:
    """``rows`` with the column :data:`LIST`: from none to four ids, which say nothing of the outcome."""
    rng = np.random.default_rng([seed, 4])
    length = LIST.places
    ids = 2 + np.minimum(rng.exponential(LIST.rows / 5, (len(rows), length)), LIST.rows - 3).astype(np.int32)
    ended = np.arange(length) >= rng.integers(0, length + 1, (len(rows), 1))
    return replace(rows, ids=np.concatenate([rows.ids, np.where(ended, PADDING, ids).astype(np.int32)], axis=1))
