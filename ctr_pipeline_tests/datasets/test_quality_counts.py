"""What is counted of each key, against plain Python; and the weights that packing makes of the statuses."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.datasets import (
    DatasetError,
    PackedDataset,
    fit_label_quality,
    fit_propensity,
    fit_vocabulary,
    pack_dataset,
)
from ctr_pipeline.labels import KeyQuality, QualityTable
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.datasets.logs import SPEC, Log, a_log, a_spec

LOG = a_log(rows_per_day=200)


def judging(section: str) -> Spec:
    return a_spec(SPEC + f"label_quality: {section}\n")


def fit(spec: Spec, log: Log = LOG) -> tuple[QualityTable, pl.DataFrame]:
    tables = log.tables(spec)
    return fit_label_quality(spec, log.bounds(spec), tables.impressions, tables.labels)


def outcomes(log: Log, spec: Spec, settled: str = "click") -> list[tuple[str | None, int, int | None, int | None]]:
    """Ad, time of the impression, and (event time, known time) of a click that counts, of rows whose ``settled`` is.

    By the rules of docs/spec.md for this log: a click within 12 h, and no outcome twice.
    """
    bounds = log.bounds(spec)
    clicks = {row["impression_id"]: row for row in log.events.filter(pl.col("event") == "click").iter_rows(named=True)}
    rows = []
    for shown in log.impressions.iter_rows(named=True):
        if (
            not bounds.train_start <= shown["ts"] < bounds.tasks[settled].settled_end
            or shown["ingest_ts"] > bounds.test_start
        ):
            continue
        click = clicks.get(shown["impression_id"])
        counts = click is not None and click["event_ts"] <= shown["ts"] + spec.task("click").window
        known = max(click["ingest_ts"], shown["ingest_ts"]) if click is not None and counts else None
        if known is not None and known > bounds.test_start:
            known = None
        rows.append((shown["ad"], shown["ts"], click["event_ts"] if click is not None and known else None, known))
    return rows


def test_trials_outcomes_and_delays_of_a_first_step() -> None:
    spec = judging("{key: ad, tasks: [click], min_trials: 5}")
    table, found = fit(spec)
    rows = outcomes(LOG, spec)
    by_ad: dict[str, list[int | None]] = defaultdict(list)
    for ad, ts, _, known in rows:
        if ad is not None:
            by_ad[ad].append(None if known is None else known - ts)
    assert table.key == "ad"
    assert {row["key"]: (row["trials"], row["positives"]) for row in found.iter_rows(named=True)} == {
        ad: (len(delays), sum(delay is not None for delay in delays)) for ad, delays in by_ad.items()
    }
    for row in found.iter_rows(named=True):
        delays = [delay / 3.6e9 for delay in by_ad[row["key"]] if delay is not None]
        assert np.exp(np.median(np.log(delays))) == pytest.approx(row["delay_hours"])


def test_trials_of_a_later_step_are_the_outcomes_of_its_parent() -> None:
    spec = judging("{key: ad, min_trials: 5}")
    table, found = fit(spec)
    clicked: dict[str, int] = defaultdict(int)
    for ad, _, _, known in outcomes(LOG, spec, "buy"):
        if ad is not None and known is not None:
            clicked[ad] += 1
    assert [task.task for task in table.tasks] == ["buy"]
    assert dict(found.select("key", "trials").iter_rows()) == clicked
    assert 0 < table.tasks[0].positives < table.tasks[0].trials == sum(clicked.values())


def test_without_a_section_there_is_nothing_to_fit() -> None:
    with pytest.raises(DatasetError, match="no section `label_quality`"):
        fit(a_spec())


def test_a_column_label_says_nothing_of_delays() -> None:
    spec = judging("{key: ad, tasks: [click], min_trials: 5}")
    text = SPEC.replace("label: {event: click}", "label: {column: y}")
    column = a_spec(text + "label_quality: {key: ad, tasks: [click], min_trials: 5}\n")
    tables = LOG.tables(spec)
    _, found = fit_label_quality(column, LOG.bounds(spec), tables.impressions, tables.labels)
    assert found["delay_hours"].null_count() == found.height > 0


def packed(directory: Path, spec: Spec, quality: QualityTable | None) -> PackedDataset:
    tables, bounds = LOG.tables(spec), LOG.bounds(spec)
    layout, vocabulary = fit_vocabulary(spec, bounds, tables.impressions, tables.history)
    propensity = fit_propensity(spec, bounds, tables.impressions, tables.labels)
    return pack_dataset(directory, spec, bounds, tables, layout, vocabulary, propensity, {}, quality)


def test_flagged_keys_weigh_less_from_their_step_on(tmp_path: Path) -> None:
    def flagged(task: str, key: str, weight: float) -> KeyQuality:
        return KeyQuality(
            task=task, key=key, trials=50, positives=40, rate=0.8, expected_rate=0.4, z=5.0, status="inflated",
            weight=weight, delay_hours=None, delay_z=None,
        )  # fmt: skip

    quality = QualityTable(key="ad", tasks=(), flagged=(flagged("click", "ad1", 0.5), flagged("buy", "ad2", 0.2)))
    spec = judging("{key: ad, weighting: down_weight}")
    with_weights = packed(tmp_path / "with", spec, quality)
    without = packed(tmp_path / "without", judging("{key: ad}"), quality)
    assert with_weights.manifest()["label_weighting"] == "down_weight"
    assert without.manifest()["label_weighting"] == "none"
    # Reporting alone changes nothing: these are the weights of a pack that knows of no statuses.
    plain = packed(tmp_path / "plain", a_spec(), None)
    code = dict(pl.read_parquet(tmp_path / "with" / "vocabulary.parquet").select("key", "row").iter_rows())
    feature = [column.name for column in with_weights.layout.ids].index("ad")
    for name, split in with_weights.splits.items():
        other = without.splits[name]
        np.testing.assert_array_equal(other.weights, plain.splits[name].weights)
        np.testing.assert_array_equal(split.ids, other.ids)
        factor = np.ones_like(split.weights)
        ads = split.ids[:, feature]
        factor[ads == code["ad1"]] = (0.5, 0.5)
        factor[ads == code["ad2"], 1] = 0.2
        ratio = split.weights / (other.weights * factor)
        # Up to the normalisation, one constant a task.
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-5)
        if name == "train":
            settled = split.labels >= 0
            means = (split.weights * settled).sum(axis=0) / settled.sum(axis=0)
            np.testing.assert_allclose(means, 1, rtol=1e-5)
