"""What is fitted and packed for training must not know the test; shuffled labels must be unpredictable."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from ctr_pipeline.datasets import (
    PackedDataset,
    SplitBounds,
    fit_propensity,
    fit_vocabulary,
    pack_dataset,
)
from ctr_pipeline.datasets.quality_counts import fit_label_quality
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.datasets.logs import DAY, SPEC, Log, a_log, a_spec
from ctr_pipeline_tests.features import leaks
from ctr_pipeline_tests.features.leaks import LeakError, assert_future_invariant

BEFORE_THE_GAP = ("train", "validation", "calibration")


def packed(
    directory: Path,
    log: Log,
    spec: Spec,
    bounds: SplitBounds,
    vocabulary_of: SplitBounds,
    propensity_of: SplitBounds,
    quality_of: SplitBounds | None = None,
    days_ahead: int = 0,
) -> PackedDataset:
    """The dataset of ``log``; with other bounds for what is fitted, or with rates and counts of later days, a leaky one."""
    tables = log.tables(spec)
    # Not the ages, which would be negative: the contract of examples refuses them.
    counted = pl.col("feature").is_in([f.name for f in spec.features.history if f.kind in ("rate", "count")])
    earlier = pl.col("day").dt.offset_by(f"-{days_ahead}d")
    ahead = tables.history.with_columns(day=pl.when(counted).then(earlier).otherwise("day"))
    tables = replace(tables, history=ahead)
    layout, vocabulary = fit_vocabulary(spec, vocabulary_of, tables.impressions, tables.history)
    propensity = fit_propensity(spec, propensity_of, tables.impressions, tables.labels)
    quality = None
    if quality_of is not None:
        quality, _ = fit_label_quality(spec, quality_of, tables.impressions, tables.labels)
    return pack_dataset(directory, spec, bounds, tables, layout, vocabulary, propensity, {}, quality)


def a_log_of_ads(seed: int, rows_per_day: int, ads: int, users: int) -> Log:
    log, draw = a_log(seed, rows_per_day), np.random.default_rng(seed)
    size = log.impressions.height
    shown = log.impressions.with_columns(
        ad=pl.Series([f"ad{number}" for number in draw.integers(0, ads, size)]),
        user=pl.Series([f"u{number}" for number in draw.integers(0, users, size)]),
    )
    return replace(log, impressions=shown)


LOG = a_log_of_ads(1, rows_per_day=40, ads=20, users=20)
BOUNDS = LOG.bounds(a_spec())
# The test begins at its first instant; what arrives with it is still known then.
FUTURE = BOUNDS.test_start + 1
# Flags most keys, so that there are weights to compare.
JUDGING = a_spec(
    SPEC + "label_quality: {key: ad, tasks: [click], min_trials: 5, threshold: 0.3, weighting: down_weight}\n"
)
LATER = replace(BOUNDS, test_start=BOUNDS.test_start + DAY)
INTO_THE_TEST = replace(
    BOUNDS,
    tasks={
        task: replace(parts, validation_start=BOUNDS.test_end, settled_end=BOUNDS.test_end)
        for task, parts in BOUNDS.tasks.items()
    },
    test_start=BOUNDS.as_of,
)
# A dataset must have a test, even where all of the future was deleted.
TEST_ROW = LOG.impressions.filter(pl.col("ts").is_between(BOUNDS.test_start + DAY, BOUNDS.test_end)).head(1)
WORLDS = [(leaks.Log(LOG.impressions, LOG.events), FUTURE)]


def fitted(
    log: leaks.Log,
    instant: int,
    bounds: SplitBounds = BOUNDS,
    vocabulary_of: SplitBounds = BOUNDS,
    propensity_of: SplitBounds = BOUNDS,
    quality_of: SplitBounds = BOUNDS,
) -> pl.DataFrame:
    """Digests of layout, vocabulary and propensities, and of each array before the gap."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        shown = pl.concat([log.impressions, TEST_ROW.with_columns(impression_id=pl.lit("test row"))])
        dataset = packed(
            Path(folder) / "d", Log(shown, log.events), JUDGING, bounds, vocabulary_of, propensity_of, quality_of
        )
        for name in ("layout.json", "vocabulary.parquet"):
            rows.append((name, hashlib.sha256((dataset.directory / name).read_bytes()).hexdigest()))
        for split in BEFORE_THE_GAP:
            for name, array in dataset.splits[split].arrays().items():
                rows.append((f"{split} {name}", hashlib.sha256(array.tobytes()).hexdigest()))
    return pl.DataFrame(rows, schema=["part", "sha256"], orient="row")


def test_nothing_that_is_fitted_or_packed_before_the_gap_knows_the_test() -> None:
    assert_future_invariant(fitted, WORLDS)


def evaluated(log: leaks.Log, instant: int, bounds: SplitBounds = BOUNDS) -> pl.DataFrame:
    """Whose labels are implausible, and what was counted of everybody."""
    tables = Log(log.impressions, log.events).tables(JUDGING)
    table, keys = fit_label_quality(JUDGING, bounds, tables.impressions, tables.labels)
    return keys.with_columns(table=pl.lit(table.to_json()))


def test_label_quality_does_not_know_the_test() -> None:
    assert_future_invariant(evaluated, WORLDS)
    for leaky in (LATER, INTO_THE_TEST):
        with pytest.raises(LeakError, match="future was"):
            assert_future_invariant(partial(evaluated, bounds=leaky), WORLDS)


PLANTED: Mapping[str, tuple[dict[str, SplitBounds], str]] = {
    "vocabulary and means of rows that arrived after the test began": ({"vocabulary_of": LATER}, "layout.json"),
    "vocabulary and means of the test's rows": (
        {"vocabulary_of": INTO_THE_TEST},
        "vocabulary.parquet",
    ),
    "propensities of later labels": ({"propensity_of": LATER}, "train weights"),
    "propensities of the test's rows": (
        {"propensity_of": INTO_THE_TEST},
        "train weights",
    ),
    "label quality of later labels": ({"quality_of": LATER}, "train weights"),
    "labels of a day later": ({"bounds": LATER}, "calibration labels"),
}


@pytest.mark.parametrize("leak", PLANTED)
def test_a_leak_planted_in_packing_is_found(leak: str) -> None:
    arguments, part = PLANTED[leak]
    with pytest.raises(LeakError, match=part):
        assert_future_invariant(partial(fitted, **arguments), WORLDS)


HISTORY = """
  history:
    - {name: ad_rate, kind: rate, key: ad, task: click, days: 3, smoothing: 5}
    - {name: user_rate, kind: rate, key: user, task: buy, days: 4, smoothing: 5}
    - {name: user_clicks, kind: count, key: user, task: click, days: 3}
    - {name: ad_sales, kind: count, key: ad, task: buy, days: 3}
    - {name: last_click, kind: recency, key: ad, task: click, days: 5}
    - {name: first_click, kind: first_seen, key: user, task: click, days: 5}
    - {name: clicks_before, kind: count, key: user, task: click, days: 3, exact: true}
    - {name: rate_before, kind: rate, key: ad, task: click, days: 3, smoothing: 5, exact: true}
    - {name: clicked_ads, kind: sequence, key: user, task: click, item: ad, length: 2, days: 3}
"""
CANARY = a_spec(SPEC[: SPEC.index("  history:")] + HISTORY.lstrip("\n") + SPEC[SPEC.index("tasks:") :])


def a_log_with_taste() -> Log:
    """A log in which some ads and some users are clicked far more than others."""
    log = a_log_of_ads(3, rows_per_day=600, ads=40, users=120)
    shown = log.impressions
    dull = shown.filter(pl.col("ad").str.ends_with("0") | pl.col("ad").str.ends_with("5"))
    bored = shown.filter(pl.col("user").str.ends_with("7"))
    unclicked = pl.concat([dull, bored])["impression_id"].implode()
    return Log(shown, log.events.filter(~pl.col("impression_id").is_in(unclicked)))


def shuffled(log: Log) -> Log:
    """The same outcomes with the same delays, each impression's with another impression."""
    order = np.random.default_rng(4).permutation(log.impressions.height)
    before = log.impressions.select("impression_id", "ts")
    after = before[order].rename({"impression_id": "new_id", "ts": "new_ts"})
    moved = log.events.join(pl.concat([before, after], how="horizontal"), on="impression_id")
    delay = pl.col("new_ts") - pl.col("ts")
    return Log(
        log.impressions,
        moved.select(
            pl.col("new_id").alias("impression_id"),
            "event",
            "kind",
            pl.col("event_ts") + delay,
            pl.col("ingest_ts") + delay,
        ),
    )


def z_of_auc(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> float:
    """(AUC - 1/2) in standard errors under no relation, ties included (Mann and Whitney 1947)."""
    rows = (labels >= 0) & ~np.isnan(scores)
    values, outcomes = scores[rows], labels[rows]
    size, positives = len(values), int(outcomes.sum())
    negatives = size - positives
    assert min(positives, negatives) > 20
    tied = np.unique(rankdata(values), return_counts=True)[1].astype(np.float64)
    variance = positives * negatives / 12 * (size + 1 - (tied**3 - tied).sum() / (size * (size - 1)))
    auc = roc_auc_score(outcomes, values)
    return float((auc - 0.5) * positives * negatives / np.sqrt(variance))


def scores(dataset: PackedDataset) -> dict[tuple[str, str, str], float]:
    """z of each history feature as a predictor of each task in each split."""
    return {
        (name, column.name, task): z_of_auc(split.numeric[:, number], split.labels[:, place])
        for name, split in dataset.splits.items()
        for number, column in enumerate(dataset.layout.numeric)
        if column.group == "history"
        for place, task in enumerate(dataset.layout.tasks)
    }


def test_shuffled_labels_cannot_be_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary: a feature that has seen a row's own label would still predict it."""
    log = a_log_with_taste()
    canary, bounds = shuffled(log), log.bounds(CANARY)
    true = scores(packed(tmp_path / "true", log, CANARY, bounds, bounds, bounds))
    assert true["train", "ad_rate", "click"] > 5
    assert true["test", "ad_rate", "click"] > 3
    found = scores(packed(tmp_path / "shuffled", canary, CANARY, bounds, bounds, bounds))
    assert len(found) == 5 * 10 * 2
    assert max(map(abs, found.values())) < 3, found
    # History of four days ahead has the row's own outcome in it.
    planted = packed(tmp_path / "planted", canary, CANARY, bounds, bounds, bounds, days_ahead=4)
    train, names = planted.splits["train"], [column.name for column in planted.layout.numeric]
    for feature, task in (("ad_rate", 0), ("user_rate", 1), ("user_clicks", 0), ("ad_sales", 1)):
        assert z_of_auc(train.numeric[:, names.index(feature)], train.labels[:, task]) > 3, feature
