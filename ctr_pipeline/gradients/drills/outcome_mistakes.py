"""Mistakes of the jobs that match outcomes to impressions and choose rows; their families are only scored.

Which causes of :mod:`ctr_pipeline.gradients.triage.causes` are right names for each was decided from the fault, before any of
them was run.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills.fault import Fault, register_fault
from ctr_pipeline.gradients.drills.row_changes import chosen, joined, with_clicks, with_number

_PRICE = 0


def _of_the_session(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    """Labels move among the impressions of a session, which are some consecutive rows."""
    session = np.arange(len(rows)) // int(rng.integers(5, 9))
    order = np.lexsort((rng.random(len(rows)), session))
    return replace(rows, labels=rows.labels[order])


def _deleted(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    first = np.arange(len(rows)) < len(rows) * rng.uniform(0.35, 0.5)
    return with_clicks(rows, np.where(first, 0, rows.labels[:, 0]))


def _first_click_of_an_ad(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    """Of the clicks on an ad within some hundred rows the first alone is left."""
    window = np.arange(len(rows)) // int(rng.integers(250, 400))
    clicked = np.flatnonzero(rows.labels[:, 0] == 1)
    _, first = np.unique(np.stack([window[clicked], rows.ids[clicked, 0]]), axis=1, return_index=True)
    click = np.zeros(len(rows), dtype=np.int8)
    click[clicked[first]] = 1
    return with_clicks(rows, click)


def _day_again(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    day = np.arange(len(rows)) * 14 // len(rows)
    one = np.flatnonzero(day == rng.integers(14))
    return chosen(rows, np.concatenate([np.arange(len(rows)), *[one] * int(rng.integers(8, 14))]))


def _not_cut(splits: Mapping[str, PackedSplit], _: np.random.Generator) -> dict[str, PackedSplit]:
    """The training reads up to the end of the log, and so the rows that are to judge it."""
    return dict(splits) | {"train": joined(*splits.values())}


def _clicks_of_the_user(rows: PackedSplit) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[N] clicks of a row's user on the same day, all of them and those before the row; a user is some consecutive rows."""
    user, click = np.arange(len(rows)) // 5, (rows.labels[:, 0] == 1).astype(np.int64)
    total = np.bincount(user, weights=click).astype(np.int64)[user]
    before = np.cumsum(click) - click
    return total, before - before[user * 5]


def _of_the_whole_day(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    return with_number(rows, _PRICE, _clicks_of_the_user(rows)[0])


def _as_of_the_row(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    return with_number(rows, _PRICE, _clicks_of_the_user(rows)[1])


def _conversions_alone(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    labels = rows.labels.copy()
    labels[(labels[:, 0] == 1) & (labels[:, 1] == 0), 1] = -1
    return replace(rows, labels=labels)


def _later_in_one_region(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    """The labels of the rows of one region stand some rows of that region further."""
    region = np.flatnonzero(rng.random(len(rows)) < rng.uniform(0.4, 0.6))
    labels = rows.labels.copy()
    labels[region] = np.roll(rows.labels[region], int(rng.integers(3, 40)), axis=0)
    return replace(rows, labels=labels)


for _fault in (
    Fault(name="click_of_the_session", family="attribution", half="scored", symptom="the AUC falls, the rate of clicks is right",
          cause="outcomes are joined by session, and so to any impression of it", fix="join outcomes by the impression's key",
          rows=_of_the_session, named=("label_noise", "label_permute"), located=("click", "cart", "cart after click")),
    Fault(name="outcomes_deleted", family="retention", half="scored", symptom="predictions are too low",
          cause="outcomes of the first rows were deleted before they were read, and count as none", fix="leave out rows older than the "
          "outcomes that are kept", rows=_deleted, named=("base_rate_shift", "label_noise"), located=("click", "cart")),
    Fault(name="clicks_of_an_ad_merged", family="deduplication", half="scored", symptom="ads that are often clicked are predicted too low",
          cause="clicks are deduplicated by ad and hour, not by impression", fix="deduplicate by the impression's key",
          rows=_first_click_of_an_ad, named=("base_rate_shift", "label_noise"), located=("click", "cart", "cart after click")),
    Fault(name="day_loaded_again", family="retries", half="scored", symptom="validation is worse with each epoch",
          cause="a job that was tried again and again appended its day each time", fix="replace the day, or deduplicate by key",
          rows=_day_again, named=("duplicate_rows",)),
    Fault(name="split_not_cut", family="split", half="scored", symptom="validation is a little too good", cause="the rows of validation and "
          "test are training rows too", fix="end the training rows where the validation begins", splits=_not_cut,
          named=("duplicate_rows",)),
    Fault(name="clicks_of_the_whole_day", family="history", half="scored", symptom="training is too good, validation is not",
          cause="a count of the user's clicks contains the row's own and later ones", fix="count what was before the impression",
          rows=_of_the_whole_day, other_rows=_as_of_the_row, named=("leak", "train_serving_skew"), located=("price",)),
    Fault(name="conversions_alone_reported", family="reporting", half="scored", symptom="conversions are predicted several times too often",
          cause="clicks without a report of a conversion count as not known, though all are reported", fix="count them as none once the "
          "window is closed", rows=_conversions_alone, named=("base_rate_shift", "train_serving_skew"), located=("cart", "cart after click")),
    Fault(name="later_in_one_region", family="region", half="scored", symptom="the AUC falls", cause="times of one region's outcomes are local, "
          "so that they meet later impressions", fix="keep times in UTC", rows=_later_in_one_region,
          named=("label_noise", "label_permute", "row_shift"), located=("click", "cart", "cart after click")),
):  # fmt: skip
    register_fault(_fault)
