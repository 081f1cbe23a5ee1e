"""Values of which half of the first rows are learnt as those of a value that the vocabulary does not hold."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline_tests.datasets.logs import SPEC, START, Log, a_log, a_spec, pack

DAYS = 3


def with_cold_start(days: int) -> str:
    ads = f"[{{name: ad, min_count: 1, cold_start: {{parent: kind, days: {days}}}}}, {{name: kind}}]"
    return SPEC.replace("[{name: ad}]", ads)


@pytest.fixture(scope="module")
def log() -> Log:
    log = a_log(rows_per_day=400)
    day = (pl.col("ts") - START) // 86_400_000_000
    # A new ad on every second day from the beginning, shown for five days.
    number = pl.int_range(pl.len()) % 4
    ad = pl.when((number == 0) & (day >= 2)).then(pl.format("new{}", day // 2 * 2)).otherwise("ad")
    ad = pl.when((number == 1) & (day >= 4)).then(pl.format("new{}", day // 2 * 2 - 2)).otherwise(ad)
    kind = pl.format("kind{}", pl.col("ts") // 1000 % 2)
    return replace(log, impressions=log.impressions.with_columns(ad=ad, kind=kind))


def test_half_of_a_new_values_first_rows_are_those_of_an_unknown_one(log: Log, tmp_path: Path) -> None:
    with_days, without = (pack(tmp_path / str(days), log, a_spec(with_cold_start(days))) for days in (DAYS, 0))
    named = pl.read_parquet(tmp_path / str(DAYS) / "vocabulary.parquet").filter(pl.col("feature") == "ad")
    first: dict[int, date] = dict(named.select("row", "first_day").iter_rows())
    start = min(first.values())
    assert sorted(first.values())[-1] > start + timedelta(days=DAYS)
    for name in ("train", "refit"):
        known, found = without.splits[name], with_days.splits[name]
        np.testing.assert_array_equal(found.ids[:, 1:], known.ids[:, 1:])
        young, forgotten = [], []
        for own, other, ts in zip(known.ids[:, 0].tolist(), found.ids[:, 0].tolist(), known.ts.tolist(), strict=True):
            day = date(1970, 1, 1) + timedelta(microseconds=ts)
            new = own >= 2 and first[own] >= start + timedelta(days=DAYS) and day < first[own] + timedelta(days=DAYS)
            assert other == own or (new and other == 1)
            if new:
                young.append(own)
                forgotten.append(other == 1)
        assert len(young) > 100
        assert 0.35 < np.mean(forgotten) < 0.65
    for name in ("validation", "calibration", "test"):
        np.testing.assert_array_equal(with_days.splits[name].ids, without.splits[name].ids)


def test_the_same_rows_are_forgotten_again(log: Log, tmp_path: Path) -> None:
    spec = a_spec(with_cold_start(DAYS))
    one, two = (pack(tmp_path / name, log, spec).splits["train"].ids for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
