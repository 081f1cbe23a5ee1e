"""Parts from named days, and parts drawn at random by a key."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.datasets import SPLITS, DatasetError, SplitBounds, fit_propensity, split_bounds
from ctr_pipeline.datasets.examples import rows_before_test, rows_of
from ctr_pipeline.datasets.view import other_models_test_rows
from ctr_pipeline.labels import label_impressions
from ctr_pipeline.sources import Pseudonymiser, read_impressions
from ctr_pipeline.spec import Spec, spec_hash
from ctr_pipeline_tests.datasets.logs import DAY, SPEC, START, Log, a_log, a_spec, pack

IN_TIME = """split:
  test: {days: 2}
  calibration: {days: 1}
  validation: {days: 1}
"""
assert IN_TIME in SPEC


def with_split(text: str) -> Spec:
    return a_spec(SPEC.replace(IN_TIME, "split:\n" + "".join(f"  {line}\n" for line in text.split("; "))))


def drawn(by: str, more: str = "") -> Spec:
    return with_split(
        f"by: {by}; test: {{fraction: 0.2}}; calibration: {{fraction: 0.15}}; validation: {{fraction: 0.1}}{more}"
    )


@pytest.fixture(scope="module")
def log() -> Log:
    found = a_log()
    key = pl.col("ad").fill_null("none") + pl.col("user").fill_null("")
    return Log(found.impressions.with_columns(split_key=pl.when(pl.col("ad") != "ad3").then(key)), found.events)


def mature(log: Log, spec: Spec) -> pl.DataFrame:
    return log.impressions.filter(pl.col("ts") + spec.longest_maturity <= log.end, pl.col("ingest_ts") <= log.end)


def parts_of(log: Log, spec: Spec) -> dict[str, pl.DataFrame]:
    bounds = log.bounds(spec)
    return {split: rows_of(bounds, split, log.impressions.lazy()).collect() for split in SPLITS}


@pytest.mark.parametrize("by", ["row", "user", "session", "shop"])
def test_each_mature_row_is_in_one_part_and_each_key_too(log: Log, by: str) -> None:
    spec = drawn(by)
    parts = parts_of(log, spec)
    assert sorted(pl.concat(parts.values())["impression_id"]) == sorted(mature(log, spec)["impression_id"])
    column = {"row": "impression_id", "shop": "split_key"}.get(by, by)
    found = [set(part[column].drop_nulls()) for part in parts.values()]
    assert sum(map(len, found)) == len(set.union(*found)) > 10
    if by != "row":
        # Rows without a key are no group.
        assert sum(part[column].null_count() > 0 for part in parts.values()) > 1


def test_the_parts_have_their_shares_and_depend_on_the_seed_alone() -> None:
    ids = pl.DataFrame({"impression_id": [f"{n:032x}" for n in range(20_000)], "ts": [START] * 20_000})
    spec = drawn("row")

    def parts(seed: int) -> dict[str, pl.Series]:
        bounds = split_bounds(spec.model_copy(update={"seed": seed}), np.array([START]), START + 9 * DAY)
        return {split: ids.select(bounds.rows_of(split)).to_series() for split in SPLITS}

    first, again, other = parts(1), parts(1), parts(2)
    for split, share in {"test": 0.2, "calibration": 0.15, "validation": 0.1, "train": 0.55}.items():
        # Five standard deviations.
        assert abs(int(first[split].sum()) - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5
        assert first[split].equals(again[split])
        assert not first[split].equals(other[split])
    assert (sum(column.cast(int) for column in first.values()) == 1).all()
    assert abs(int((first["test"] & other["test"]).sum()) - 800) < 5 * 28


@pytest.mark.parametrize("by", ["row", "user"])
def test_packed_labels_are_those_of_the_end_of_the_run(log: Log, tmp_path: Path, by: str) -> None:
    spec = drawn(by)
    dataset = pack(tmp_path / "packed", log, spec)
    frames = log.impressions.lazy(), log.events.lazy()
    labels = label_impressions(*frames, spec.tasks, log.end, spec.split.ingest_lag).collect()
    positive = labels.with_columns(y=pl.col("state").str.contains("POSITIVE").cast(pl.Int8))
    wide = positive.pivot("task", index="impression_id", values="y")
    states = dataset.manifest()["splits"]
    for split, rows in parts_of(log, spec).items():
        expected = rows.join(wide, on="impression_id", how="left").sort("ts")
        order = np.argsort(dataset.splits[split].ts, kind="stable")
        np.testing.assert_array_equal(dataset.splits[split].ts[order], expected["ts"].to_numpy())
        np.testing.assert_array_equal(dataset.splits[split].labels[order], expected.select("click", "buy").to_numpy())
        own = labels.filter(pl.col("impression_id").is_in(rows["impression_id"].implode()), pl.col("task") == "click")
        counts = {state: count for state, count in states[split]["states"]["click"].items() if count}
        assert counts == dict(own["state"].value_counts().iter_rows())


def test_another_model_sees_the_drawn_test_rows(log: Log, tmp_path: Path) -> None:
    spec = drawn("user")
    dataset = pack(tmp_path / "packed", log, spec)
    found = other_models_test_rows(
        spec, log.bounds(spec), log.tables(spec), dataset.layout, tmp_path / "packed" / "vocabulary.parquet"
    )
    np.testing.assert_array_equal(found[0], dataset.splits["test"].numeric)
    np.testing.assert_array_equal(found[1], dataset.splits["test"].ids)


def test_nothing_is_fitted_on_the_test(log: Log) -> None:
    spec = drawn("row")
    bounds, tables = log.bounds(spec), log.tables(spec)
    test = set(rows_of(bounds, "test", tables.impressions).collect()["impression_id"])
    rest = rows_before_test(bounds, tables.impressions).collect()
    assert test.isdisjoint(rest["impression_id"])
    assert len(test) + rest.height == mature(log, spec).height
    changed = tables.impressions.with_columns(
        position=pl.when(pl.col("impression_id").is_in(list(test))).then(1).otherwise("position").cast(pl.Int32)
    )
    assert fit_propensity(spec, bounds, changed, tables.labels) == fit_propensity(
        spec, bounds, tables.impressions, tables.labels
    )


def test_bounds_are_read_back(log: Log) -> None:
    for spec in (drawn("shop"), a_spec()):
        bounds = log.bounds(spec)
        assert SplitBounds.from_json(bounds.to_json()) == bounds
    assert "drawn" not in log.bounds(a_spec()).to_json()


def test_a_part_without_keys_is_refused(log: Log, tmp_path: Path) -> None:
    one = Log(log.impressions.with_columns(user=pl.lit("u1")), log.events)
    with pytest.raises(DatasetError, match=r"no impressions.*it draws by user, of which there may be too few"):
        pack(tmp_path / "packed", one, drawn("user"))


def test_any_column_of_the_log_is_a_key(tmp_path: Path) -> None:
    spec = Spec.model_validate(
        drawn("shop").model_dump()
        | {
            "source": {"impressions": {"paths": ["x"]}},
            "impression": {"id": "i", "time": "t"},
            "features": {"dense": [{"name": "price"}], "categorical": [{"name": "shop", "column": "shop"}]},
            "propensity": {},
            "tasks": [{"name": "click", "window": "0s", "label": {"column": "y"}}],
        }
    )
    rows = {"i": range(4), "t": [START] * 4, "shop": [7, None, 7, 8], "price": [1.0] * 4, "y": [0] * 4}
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    key = Pseudonymiser(b"0123456789abcdef")
    day = date(2026, 3, 1)
    found = read_impressions(spec, [tmp_path / "log.parquet"], day, day, key, day).kept
    hashed = pl.DataFrame({"key": ["7", "8"]}).select(key.expr("key"))["key"].to_list()
    by_id = dict(zip(found["impression_id"], zip(found["split_key"], found["shop"], strict=True), strict=True))
    ids = pl.DataFrame({"i": ["0", "1", "2", "3"]}).select(key.expr("i"))["i"].to_list()
    assert [by_id[n] for n in ids] == [(hashed[0], "7"), (None, None), (hashed[0], "7"), (hashed[1], "8")]


def test_specs_without_the_new_fields_keep_their_hash() -> None:
    # The hash that this spec has without any of the fields by which a split can name days or a key.
    assert spec_hash(a_spec()) == "60d4a94d5fbfb6a2"
    assert len({spec_hash(spec) for spec in (a_spec(), drawn("row"), drawn("user"))}) == 3


def dated(calibration: str = "{first: 2026-03-06}", test: str = "{first: 2026-03-10}") -> Spec:
    return with_split(f"test: {test}; calibration: {calibration}; validation: {{first: 2026-03-04}}")


def in_days(bounds: SplitBounds) -> list[float]:
    parts = bounds.tasks["buy"]
    instants = (parts.train_start, parts.validation_start, parts.calibration_start, parts.settled_end)
    return [(instant - START) / DAY for instant in (*instants, bounds.test_start, bounds.test_end, bounds.as_of)]


def test_named_days_by_hand(log: Log) -> None:
    # Labels settle two days after the impression, and the last mature day is the 12th of March.
    bounds = log.bounds(dated())
    assert in_days(bounds) == [
        pytest.approx((log.impressions["ts"].min() - START) / DAY), 3, 5, 7, 9, 12, 14
    ]  # fmt: skip
    assert in_days(log.bounds(dated(test="{first: 2026-03-10, last: 2026-03-11}")))[4:] == [9, 11, 14]
    assert in_days(log.bounds(dated(test="{first: 2026-03-10, last: 2027-01-01}")))[4:] == [9, 12, 14]
    # Beside slices of other kinds.
    assert in_days(log.bounds(dated(calibration="{days: 2}")))[1:5] == [3, 5, 7, 9]


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        (dated(test="{first: 2026-03-13}"), "its part test, since it would begin at 2026-03-13.*2026-03-13"),
        (dated(test="{first: 2027-03-13}"), "its part test"),
        (
            with_split("test: {days: 5}; calibration: {first: 2026-03-06}; validation: {days: 1}"),
            "the part calibration of buy",
        ),
        (
            with_split("test: {days: 2}; calibration: {days: 1}; validation: {first: 2026-02-27}"),
            "the part train of click, since",
        ),
    ],
)
def test_days_off_the_log_are_refused(log: Log, spec: Spec, part: str) -> None:
    with pytest.raises(DatasetError, match=part + r".*840 impressions from 2026-03-01.*Change the days"):
        log.bounds(spec)
