"""How well a model could do that sees only what the log shows: an approximate ceiling given the observables.

Latent vectors and effects are out of reach of any model; positions are not known when an ad is scored. The exact
conditional expectation E[click | observables] has no closed form, so it is approximated in two stages:

1. The true logit of the relevance is regressed on the observables: ridge regression on the numeric columns, and
   additive effects of every id and category (users, ads, queries and advertisers included), shrunk by
   ``SHRINKAGE`` rows and fitted by backfitting.
2. The fitted value is an index, and E[click probability | index, device] is read off in bins that hold equal shares of
   the clicks, and interpolated between them.

``result_bin`` is a coarse logarithm of ``result_count``: the numbers of words and results together show whether a query
asks for a brand. Pages are split into two halves, and each half is scored with what was fitted on the other. Since the target is free of
label noise, this is what an additive model could reach with unlimited data. Products of latent vectors of ids are
outside its reach (save for the similarity and affinity columns), and so are category effects of single days: a model
with such interactions or with recent click rates may come out somewhat above it.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import logit

Values = NDArray[np.float64]
Floats = NDArray[np.float32]
Codes = NDArray[np.int32]

SHRINKAGE = 5.0
RIDGE = 10.0
ROUNDS = 6
BINS = 60

TAILED = (
    "price",
    "review_count",
    "stock_level",
    "ad_age_days",
    "user_tenure_days",
    "user_sessions_30d",
    "delivery_days",
    "session_depth",
    "result_count",
)
PLAIN = (
    "discount_pct",
    "rating",
    "title_length",
    "image_quality",
    "advertiser_rating",
    "query_ad_similarity",
    "user_category_affinity",
    "query_length",
)
IDS = (
    ("user_id",),
    ("query_id",),
    ("query_length", "result_bin"),
    ("ad_id",),
    ("advertiser_id",),
    ("category_id", "device_type"),
    ("geo",),
    ("hour_of_day",),
    ("page_type",),
    ("placement",),
    ("operating_system",),
    ("connection_type",),
    ("is_logged_in",),
)
COLUMNS = sorted({*TAILED, *PLAIN, *(name for names in IDS for name in names)} - {"result_bin"})
"""Columns of the impression log that the ceiling looks at."""


def predict_from_observables(log: pl.DataFrame, relevance: Values, p: Values, page: Codes) -> Values:
    """Approximate E[click | observables] [N] for impressions ``log`` with true ``relevance``, ``p`` [N] and ``page`` [N]."""
    log = log.with_columns(result_bin=(4 * pl.col("result_count").log1p()).floor())
    numbers, effects = _numbers(log), [_codes(log, names) for names in IDS]
    device = _codes(log, ("device_type",))
    target = logit(np.clip(relevance, 1e-12, 1 - 1e-7))
    prediction = np.empty(len(p))
    for half in (0, 1):
        seen = page % 2 != half
        index = _index(numbers, effects, target, seen)
        prediction[~seen] = conditional_mean(index, p, device, seen)[~seen]
    return prediction


def conditional_mean(index: Values, p: Values, device: Codes, fitted_on: NDArray[np.bool_] | None = None) -> Values:
    """E[p | index, device] [N]: bins with equal shares of the clicks, linear in (index, ln p) between their means."""
    seen = np.ones(len(p), np.bool_) if fitted_on is None else fitted_on
    result = np.full(len(p), p[seen].mean())
    for code in np.unique(device):
        of_device = device == code
        rows = np.flatnonzero(of_device & seen)
        if len(rows) == 0:
            continue
        rows = rows[np.argsort(index[rows], kind="stable")]
        share = np.cumsum(p[rows])
        # Half of the bins by clicks and half by rows: both tails are resolved.
        bins = np.floor(BINS / 2 * share / share[-1]) + np.floor(BINS / 2 * np.arange(len(rows)) / len(rows))
        starts = np.flatnonzero(np.diff(bins, prepend=-1.0))
        count = np.diff(np.append(starts, len(rows)))
        centre = np.add.reduceat(index[rows], starts) / count
        mean = np.add.reduceat(p[rows], starts) / count
        result[of_device] = np.exp(np.interp(index[of_device], centre, np.log(mean)))
    return result


def _numbers(log: pl.DataFrame) -> Floats:
    """Standardised numbers [N, D], a column of ones, and an indicator for each column with missing values."""
    columns = [np.ones(len(log), np.float32)]
    for name in (*TAILED, *PLAIN):
        values = log[name].cast(pl.Float32).to_numpy()
        missing = np.isnan(values)
        if name in TAILED:
            values = np.sign(values) * np.log1p(np.abs(values))
        centre, spread = np.nanmean(values, dtype=np.float64), np.nanstd(values, dtype=np.float64)
        standard = (values - centre) / (spread if spread > 0 else 1.0)
        columns.append(np.where(missing, 0.0, standard).astype(np.float32))
        if missing.any():
            columns.append(missing.astype(np.float32))
    return np.stack(columns, axis=1)


def _codes(log: pl.DataFrame, names: tuple[str, ...]) -> Codes:
    """A number [N] for each combination of the values of ``names``."""
    text = log.select(pl.concat_str([pl.col(name).cast(pl.String) for name in names], separator="|", ignore_nulls=True))
    codes: Codes = text.to_series().fill_null("").rank("dense").to_numpy().astype(np.int32)
    return codes - np.int32(1)


def _index(numbers: Floats, effects: list[Codes], target: Values, seen: NDArray[np.bool_]) -> Values:
    """Fitted values [N] of the additive regression, fitted on the rows ``seen``."""
    seen_numbers, seen_codes = numbers[seen], [codes[seen] for codes in effects]
    gram = (seen_numbers.T @ seen_numbers).astype(np.float64) + RIDGE * np.eye(numbers.shape[1])
    counts = [np.bincount(codes, minlength=whole.max() + 1) for codes, whole in zip(seen_codes, effects, strict=True)]
    levels = [np.zeros(len(count)) for count in counts]
    weights = np.zeros(numbers.shape[1])
    residual = target[seen]
    for _ in range(ROUNDS):
        step = np.linalg.solve(gram, seen_numbers.T @ residual.astype(np.float32) - RIDGE * weights)
        weights += step
        residual -= seen_numbers @ step.astype(np.float32)
        for codes, count, level in zip(seen_codes, counts, levels, strict=True):
            total = np.bincount(codes, weights=residual, minlength=len(count))
            change = (total - SHRINKAGE * level) / (count + SHRINKAGE)
            level += change
            residual -= change[codes]
    fitted = (numbers @ weights.astype(np.float32)).astype(np.float64)
    for codes, level in zip(effects, levels, strict=True):
        fitted += level[codes]
    return fitted


def position_unknown(relevance: Values, p: Values, device: Codes) -> Values:
    """E[click | relevance, device] [N]: all latents known, but not the position."""
    return conditional_mean(logit(np.clip(relevance, 1e-12, 1 - 1e-7)), p, device)
