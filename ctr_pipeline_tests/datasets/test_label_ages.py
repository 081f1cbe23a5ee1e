"""Open labels in the packed training rows: which rows, how old, what is known, and that nothing later is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.datasets import PackedDataset, SplitBounds
from ctr_pipeline.labels import label_impressions
from ctr_pipeline.spec import Spec
from ctr_pipeline.training.dataloader import delays_of, gather
from ctr_pipeline_tests.datasets.logs import SPEC, Log, a_spec, pack


def an_open_spec(text: str = SPEC) -> Spec:
    return a_spec(
        text.replace("label: {event: buy}}", "label: {event: buy}, objective: {kind: binary, loss: dfm_discrete}}")
    )


@pytest.fixture(scope="module")
def packed(log: Log, tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return pack(tmp_path_factory.mktemp("open") / "dataset", log, an_open_spec())


def expected_ages(log: Log, bounds: SplitBounds) -> pl.DataFrame:
    """Label, age and delay in seconds of the purchase of each training row, from the events alone."""
    spec, t0 = an_open_spec(), bounds.test_start
    labels = label_impressions(
        log.impressions.lazy(), log.events.lazy(), spec.tasks, t0, spec.split.ingest_lag
    ).collect()
    buys = labels.filter(pl.col("task") == "buy").select("impression_id", "state", "known_ts")
    parts = bounds.tasks["buy"]
    settled = (pl.col("ts") < parts.validation_start) & (pl.col("state") != "CENSORED")
    is_open = pl.col("ts").is_between(parts.settled_end, t0, closed="left")
    clicks = pl.col("ts") < bounds.tasks["click"].validation_start
    held = [pl.col("ts").is_between(of.validation_start, of.settled_end, closed="left") for of in bounds.tasks.values()]
    rows = log.impressions.filter(pl.col("ingest_ts") <= t0, ~pl.any_horizontal(held)).join(
        buys, on="impression_id", how="left"
    )
    known = pl.when(pl.col("known_ts") <= t0).then(pl.col("known_ts"))
    return (
        rows.filter(settled | is_open | clicks)
        .with_columns(
            elapsed=pl.when(settled | is_open).then((t0 - pl.col("ts")) / 1e6),
            delay=pl.when(settled | is_open).then((known - pl.col("ts")) / 1e6),
            is_open=is_open,
        )
        .sort("ts", "impression_id")
    )


def test_rows_until_the_test_are_open_with_their_age(log: Log, packed: PackedDataset) -> None:
    train, bounds = packed.splits["train"], log.bounds(an_open_spec())
    expected = expected_ages(log, bounds)
    order = np.argsort(train.ts, kind="stable")
    np.testing.assert_array_equal(train.ts[order], expected["ts"].to_numpy())
    assert train.elapsed is not None
    assert train.delay is not None
    for found, name in ((train.elapsed, "elapsed"), (train.delay, "delay")):
        oracle = expected[name].cast(pl.Float32).fill_null(float("nan")).to_numpy()
        np.testing.assert_allclose(found[order, 1], oracle, rtol=1e-6)
        assert np.isnan(found[:, 0]).all()
    is_open = expected["is_open"].to_numpy()
    assert is_open.sum() > 50
    # Open labels are labels of nothing else: neither statistics nor the settled loss see them.
    assert (train.labels[order][is_open, 1] == -1).all()
    early = is_open & np.isfinite(train.delay[order, 1])
    assert 0 < early.sum() < is_open.sum()
    counts = packed.manifest()["splits"]["train"]["tasks"]["buy"]
    assert counts["censored"] == is_open.sum()
    assert counts["rows"] == counts["settled"] + counts["censored"]
    for name in ("validation", "calibration", "test"):
        assert packed.splits[name].elapsed is None


def test_the_settled_pairs_are_those_of_a_spec_without_open_labels(
    log: Log, packed: PackedDataset, tmp_path: Path
) -> None:
    plain = pack(tmp_path / "plain", log, a_spec())
    for name in ("train", "validation", "calibration", "test"):
        for task in range(2):
            own, other = (d.splits[name].ts[d.splits[name].labels[:, task] >= 0] for d in (packed, plain))
            np.testing.assert_array_equal(np.sort(own), np.sort(other))


def test_nothing_that_becomes_known_after_the_test_began_changes_a_byte(
    log: Log, packed: PackedDataset, tmp_path: Path
) -> None:
    t0 = log.bounds(an_open_spec()).test_start
    cut = replace(log, events=log.events.filter(pl.col("ingest_ts") <= t0))
    assert cut.events.height < log.events.height
    other = pack(tmp_path / "cut", cut, an_open_spec())
    for name, array in packed.splits["train"].arrays().items():
        np.testing.assert_array_equal(array, other.splits["train"].arrays()[name])


def test_a_log_that_stopped_makes_labels_younger(log: Log, tmp_path: Path) -> None:
    spec = an_open_spec()
    t0 = log.bounds(spec).test_start
    stopped = t0 - 6 * 3_600_000_000
    watermarks = {name: {"click": t0, "buy": stopped} for name in ("train", "validation", "calibration", "test")}
    train = pack(tmp_path / "d", log, spec, watermarks=watermarks).splits["train"]
    assert train.elapsed is not None
    is_open = (train.labels[:, 1] < 0) & np.isfinite(train.elapsed[:, 1])
    np.testing.assert_allclose(train.elapsed[is_open, 1], (stopped - train.ts[is_open]) / 1e6, rtol=1e-6)
    assert train.ts[is_open].max() < stopped


def test_batches_and_the_loss_get_them(packed: PackedDataset) -> None:
    train = packed.splits["train"]
    batch = gather(train, np.arange(0, len(train), 3))
    assert batch.delays is not None
    assert batch.without_rows().delays is not None
    np.testing.assert_array_equal(batch.delays.elapsed.numpy(), train.elapsed[::3])  # type: ignore[index]
    assert gather(packed.splits["test"], np.arange(5)).delays is None
    found = delays_of(train)
    assert found is not None
    clicks, buys = found
    assert len(clicks) == 0
    assert len(buys) == int((train.labels[:, 1] == 1).sum())
    assert 0 < buys.min() <= buys.max() < 4 * 86_400
    assert delays_of(packed.splits["test"]) is None
