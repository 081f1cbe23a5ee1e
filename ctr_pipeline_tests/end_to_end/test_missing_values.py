"""A missing value stays one from the log to the served model: never a silent zero, filled by the training days alone."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.calibration import PlattCalibrator
from ctr_pipeline.datasets import PackedDataset, SplitBounds, Tables, fit_vocabulary, pack_dataset, split_bounds
from ctr_pipeline.features import Layout, history_for_days
from ctr_pipeline.labels import label_table
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.export import export_bundle
from ctr_pipeline.sources import Pseudonymiser, read_events, read_impressions
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline_tests.serving.shop import randomise

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = [START.date() + timedelta(days=n) for n in range(12)]
A_DAY = 60
KEY = Pseudonymiser(b"0123456789abcdef")
SPEC = """
version: 1
name: gaps
source: {impressions: {paths: [x], null_values: ["", NA]}}
impression: {id: id, time: at, user: who, position: slot}
features:
  dense:
    - {name: price, transform: signed_log1p}
    - {name: stock, missing: {fill: constant, value: -7}}
    - {name: age, missing: {fill: mean, indicator: false}}
  categorical: [{name: ad}]
  contextual: [{name: depth, type: numeric}]
  history:
    - {name: seen, kind: count, key: ad, days: 3}
    - {name: rate, kind: rate, key: ad, task: click, days: 3}
    - {name: since, kind: recency, key: user, task: click, days: 3}
tasks: [{name: click, window: 0s, label: {column: clicked}}]
split: {test: {days: 2}, calibration: {days: 1}, validation: {days: 1}}
model: {hidden: [8], embedding_dim: 4}
"""
NUMBERS = ("price", "stock", "age", "depth")


@dataclass(frozen=True)
class Made:
    log: pl.DataFrame
    """The log as it should be understood, by time."""
    spec: Spec
    bounds: SplitBounds
    packed: PackedDataset
    bundle: Bundle
    ranker: Ranker

    @property
    def layout(self) -> Layout:
        return self.packed.layout

    def of(self, split: str, name: str) -> np.ndarray:
        """The packed values of a number."""
        place = [column.name for column in self.layout.numeric].index(name)
        return np.asarray(self.packed.splits[split].numeric[:, place])

    def logged(self, split: str) -> pl.DataFrame:
        """The log's rows of a split, in the order in which they were packed."""
        ts = pl.DataFrame({"ts": np.asarray(self.packed.splits[split].ts)})
        return ts.join(self.log, on="ts", how="left", maintain_order="left")


def a_log() -> pl.DataFrame:
    """Numbers are far larger at the end, so that a fill which had seen the test would show."""
    draw, size = np.random.default_rng(3), A_DAY * len(DAYS)
    number = np.arange(size)
    late = number >= A_DAY * 8

    def gappy(values: np.ndarray, share: float) -> pl.Series:
        return pl.Series(np.where(draw.random(size) < share, np.nan, values)).fill_nan(None)

    return pl.DataFrame(
        {
            "id": [f"i{n}" for n in number],
            "at": [START + n * (timedelta(days=1) / A_DAY) for n in number],
            "who": [None if n % 11 == 0 else f"u{n % 17}" for n in number],
            "slot": [None if n % 13 == 0 else int(n) % 4 + 1 for n in number],
            "price": gappy(np.where(late, 9000.0, 10 + draw.random(size)), 0.3),
            "stock": gappy(np.where(late, 5000.0, draw.integers(0, 3, size)), 0.4),
            "age": gappy(np.where(late, 800.0, 20 + draw.random(size)), 0.2),
            "depth": gappy(draw.integers(0, 2, size).astype(float), 0.5),
            "ad": [None if n % 7 == 0 else f"ad{n % 5}" for n in number],
            "clicked": [None if n % 29 == 0 else int(n % 3 == 0) for n in number],
        }
    )


def written(log: pl.DataFrame, folder: Path) -> list[Path]:
    """The log in three formats, with each format's ways of saying that a value is missing."""
    first, second, third = log[: A_DAY * 4], log[A_DAY * 4 : A_DAY * 8], log[A_DAY * 8 :]
    even = pl.int_range(pl.len()) % 2 == 0
    texts = [
        pl.when(even).then(pl.col(n).cast(pl.String)).otherwise(pl.col(n).cast(pl.String).fill_null("NA"))
        for n in NUMBERS
    ]
    first.with_columns(pl.col("at").dt.to_string("iso:strict"), *texts).write_csv(folder / "a.csv")
    rows = second.with_columns(pl.col("at").dt.to_string("iso:strict")).to_dicts()
    lines = ({k: v for k, v in row.items() if v is not None or n % 2} for n, row in enumerate(rows))
    (folder / "b.ndjson").write_text("".join(pl.DataFrame([line]).write_ndjson() for line in lines), encoding="utf-8")
    third.with_columns(
        pl.when(even).then(n).otherwise(pl.col(n).fill_null(float("nan"))) for n in NUMBERS
    ).write_parquet(folder / "c.parquet")
    return [folder / name for name in ("a.csv", "b.ndjson", "c.parquet")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("gaps")
    spec, log = parse_spec(SPEC, "gaps"), a_log()
    files = written(log, folder)
    shown = read_impressions(spec, files, DAYS[0], DAYS[-1], KEY, DAYS[0])
    happened = read_events(spec, files, {}, DAYS[0], DAYS[-1], KEY, DAYS[0])
    assert shown.quarantined.is_empty()
    impressions, events = shown.kept.lazy(), happened.kept.lazy()
    end = int((START + timedelta(days=len(DAYS))).timestamp()) * 1_000_000
    labels = label_table(impressions, events, spec.tasks, end, 0).collect().lazy()
    history = history_for_days(spec, impressions, events, DAYS).collect().lazy()
    bounds = split_bounds(spec, shown.kept["ts"].to_numpy(), end)
    layout, vocabulary = fit_vocabulary(spec, bounds, impressions, history)
    tables = Tables(impressions=impressions, labels=labels, history=history)
    packed = pack_dataset(folder / "packed", spec, bounds, tables, layout, vocabulary, None, {})
    ranker = randomise(build_ranker(layout, spec.model, 1))
    bundle = export_bundle(
        ranker, {"click": PlattCalibrator()}, layout, folder / "packed" / "vocabulary.parquet", spec, folder / "bundle"
    )
    return Made(log.with_columns(ts=pl.col("at").dt.epoch("us")), spec, bounds, packed, bundle, ranker)


@pytest.mark.parametrize("split", ["train", "validation", "calibration", "test"])
def test_exactly_what_was_missing_in_the_log_is_missing_in_the_arrays(made: Made, split: str) -> None:
    log, arrays = made.logged(split), made.packed.splits[split]
    assert len(log) > 50
    for name in NUMBERS:
        expected = log[name].cast(pl.Float32).fill_null(float("nan")).to_numpy()
        np.testing.assert_array_equal(made.of(split, name), expected)
    assert (made.of(split, "stock") == 0).any() == (log["stock"] == 0).any()
    rows = np.asarray(arrays.ids[:, 0])
    np.testing.assert_array_equal(rows == 0, log["ad"].is_null().to_numpy())
    np.testing.assert_array_equal(np.asarray(arrays.labels[:, 0]) == -1, log["clicked"].is_null().to_numpy())
    np.testing.assert_array_equal(np.asarray(arrays.position) == 0, log["slot"].is_null().to_numpy())


def test_history_of_a_missing_key_is_missing_and_that_of_a_new_key_counts_zero(made: Made) -> None:
    log = made.logged("train")
    seen, keyless = made.of("train", "seen"), log["ad"].is_null().to_numpy()
    np.testing.assert_array_equal(np.isnan(seen), keyless)
    first_day = log["at"].dt.date().to_numpy() == np.datetime64(DAYS[0])
    assert (seen[first_day & ~keyless] == 0).all()
    assert np.isnan(made.of("train", "rate")[first_day]).all()
    nobody = log["who"].is_null().to_numpy()
    assert np.isnan(made.of("train", "since")[nobody]).all()
    assert (made.of("train", "since")[~np.isnan(made.of("train", "since"))] > 0).all()


def test_fills_are_those_of_the_training_interval_alone(made: Made) -> None:
    start, end = made.bounds.intervals["train"]
    train = made.log.filter(pl.col("ts").is_between(start, end, closed="left"))
    assert (train["at"].dt.date() < date(2026, 3, 9)).all()  # before the numbers grew
    columns = {column.name: column for column in made.layout.numeric}
    single = train.with_columns(pl.col(NUMBERS).cast(pl.Float32))
    assert columns["price"].fill == pytest.approx(single["price"].median())
    assert columns["stock"].fill == -7
    assert columns["age"].fill == pytest.approx(single["age"].mean(), rel=1e-6)
    assert columns["depth"].fill == pytest.approx(single["depth"].median())
    assert [name for name, column in columns.items() if not column.indicator] == ["age"]
    filled = single["stock"].fill_null(-7)
    assert (columns["stock"].mean, columns["stock"].std) == pytest.approx((filled.mean(), filled.std(ddof=0)), rel=1e-5)
    assert columns["seen"].fill == pytest.approx(float(np.nanmedian(made.of("train", "seen"))))


def test_the_bundle_fills_as_declared_and_tells_a_missing_value_from_its_fill(made: Made) -> None:
    ids = np.full((1, len(made.layout.ids)), 2)
    usual = np.array([[column.mean if column.transform == "none" else 3.0 for column in made.layout.numeric]])
    for place, column in enumerate(made.layout.numeric):
        missing, filled, zero = usual.copy(), usual.copy(), usual.copy()
        missing[0, place], filled[0, place], zero[0, place] = np.nan, column.fill, 0.0
        logits = [float(made.bundle.score(rows, ids).logits[0, 0]) for rows in (missing, filled, zero)]
        if column.indicator:
            assert abs(logits[0] - logits[1]) > 1e-4, column.name
        else:
            assert logits[0] == logits[1], column.name
        assert abs(logits[0] - logits[2]) > 1e-4, column.name


def test_every_way_to_leave_a_value_out_of_a_request_is_a_missing_value(made: Made) -> None:
    ways: list[dict[str, object]] = [{}, {"price": None, "ad": None}, {"price": float("nan"), "ad": ""}]
    numeric, ids = made.bundle.encode(ways)
    assert np.isnan(numeric).all()
    assert (ids == 0).all()
    given, known = made.bundle.encode([{"price": 0, "seen": 0, "ad": "ad1"}])
    assert np.flatnonzero(~np.isnan(given[0])).tolist() == [0, 4]
    assert (given[0, [0, 4]] == 0).all()
    assert known[0, 0] >= 2
    scores = made.bundle.score(numeric, ids).logits
    assert (scores == scores[0]).all()
