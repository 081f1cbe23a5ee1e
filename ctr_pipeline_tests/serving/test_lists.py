"""Lists, vectors and parts of the time from a raw log to a bundle: what a request says is what the packed arrays hold."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ctr_pipeline.calibration import PlattCalibrator
from ctr_pipeline.datasets import PackedDataset, Tables, fit_vocabulary, pack_dataset, split_bounds
from ctr_pipeline.datasets.view import other_models_test_rows
from ctr_pipeline.features import history_for_days
from ctr_pipeline.labels import label_table
from ctr_pipeline.lake import Lake
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.bundle import BundleError
from ctr_pipeline.serving.export import check_parity, export_bundle
from ctr_pipeline.sources import Pseudonymiser, read_events, read_impressions
from ctr_pipeline.spec import Spec, parse_spec

SPEC = """
version: 1
name: baskets
source: {impressions: {paths: [log.ndjson]}}
impression: {id: id, time: at, user: who}
features:
  dense: [{name: price}, {name: taste, width: 3, transform: signed_log1p}]
  categorical:
    - {name: item, column: shown.item}
    - {name: past_items, list: {max_length: 3}}
    - {name: past_total, column: past_items, list: {max_length: 2, keep: first, pooling: sum}}
  contextual: [{name: tags, type: categorical, column: shown.tags, list: {pooling: max}, embedding_dim: 2}, {name: hour, type: categorical, time: hour, time_zone: Asia/Tokyo}]
tasks: [{name: click, window: 0s, label: {column: clicked}}]
split: {test: {days: 2}, calibration: {days: 1}, validation: {days: 1}}
model: {hidden: [8], embedding_dim: 4}
"""
FIRST, DAYS, ROWS = date(2026, 3, 1), 10, 300


def raw_rows() -> list[dict[str, Any]]:
    """Rows as an application logs them; a click is likely where the item was bought before."""
    draw = np.random.default_rng(0)
    start, rows = datetime(2026, 3, 1, tzinfo=UTC), []
    for number in range(ROWS):
        past: Any = [f"i{n}" for n in draw.integers(0, 12, draw.integers(0, 6))]
        past += [f"new{number}"] if number % 4 == 0 else []
        row = {
            "id": f"imp-{number}",
            "at": (start + timedelta(seconds=DAYS * 86_400 * number / ROWS)).isoformat(),
            "who": f"u{number % 7}",
            "price": float(draw.normal()) if number % 9 else None,
            "taste": draw.normal(size=3).tolist() if number % 11 else None,
            "shown": {"item": f"i{draw.integers(0, 12)}", "tags": [int(n) for n in draw.integers(0, 4, number % 3)]},
            "past_items": past if number % 13 else None,
            "clicked": int(draw.random() < 0.4),
        }
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Made:
    spec: Spec
    impressions: pl.DataFrame
    tables: Tables
    dataset: PackedDataset
    ranker: Ranker
    bundle: Bundle
    calibrators: Mapping[str, PlattCalibrator]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The log read, packed, a few steps of training, exported."""
    folder = tmp_path_factory.mktemp("baskets")
    spec = parse_spec(SPEC, "baskets.yaml")
    log = folder / "log.ndjson"
    log.write_text("".join(json.dumps(row) + "\n" for row in raw_rows()), encoding="utf-8")
    last = FIRST + timedelta(days=DAYS - 1)
    key = Pseudonymiser(b"0123456789abcdef")
    read = read_impressions(spec, [log], FIRST, last, key, FIRST)
    assert read.notices["cut_lists"] > 0
    events = read_events(spec, [log], {}, FIRST, last, key, FIRST).kept
    # Stored and read back, as each table is.
    days = [FIRST + timedelta(days=n) for n in range(DAYS)]
    lake = Lake(folder / "lake")
    lake.replace_days("impressions", read.kept, days)
    shown = lake.scan("impressions")
    as_of = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1_000_000) + DAYS * 86_400_000_000
    labels = label_table(shown, events.lazy(), spec.tasks, as_of, spec.split.ingest_lag).collect().lazy()
    tables = Tables(
        impressions=shown, labels=labels, history=history_for_days(spec, shown, events.lazy(), days).collect().lazy()
    )
    bounds = split_bounds(spec, read.kept["ts"].to_numpy(), as_of)
    layout, vocabulary = fit_vocabulary(spec, bounds, tables.impressions, tables.history)
    dataset = pack_dataset(folder / "packed", spec, bounds, tables, layout, vocabulary, None, {})
    ranker = build_ranker(layout, spec.model, 1)
    train = dataset.splits["train"]
    numeric, ids = torch.from_numpy(train.numeric.copy()), torch.from_numpy(train.ids.copy())
    target = torch.from_numpy(train.labels[:, :1].astype(np.float32))
    tables_of = [p for name, p in ranker.named_parameters() if name.endswith("table.weight")]
    dense = [p for name, p in ranker.named_parameters() if not name.endswith("table.weight")]
    steps = [torch.optim.SparseAdam(tables_of, lr=0.1), torch.optim.Adam(dense, lr=0.05)]
    for _ in range(5):
        ranker.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(ranker(numeric, ids), target).backward()
        for step in steps:
            step.step()
    calibrators = {"click": PlattCalibrator(a=1.1, b=-0.2)}
    bundle = export_bundle(ranker, calibrators, layout, folder / "packed" / "vocabulary.parquet", spec, folder / "b")
    return Made(spec, read.kept, tables, dataset, ranker.eval(), bundle, calibrators)


def requests() -> list[dict[str, Any]]:
    return [
        {
            "price": row["price"],
            "taste": row["taste"],
            "item": row["shown"]["item"],
            "tags": row["shown"]["tags"],
            "past_items": row["past_items"],
            "past_total": row["past_items"],
            "ts": datetime.fromisoformat(row["at"]),
        }
        for row in raw_rows()
    ]


def test_a_request_gives_the_packed_inputs(made: Made) -> None:
    test = made.dataset.splits["test"]
    numeric, ids = made.bundle.encode(requests()[-len(test) :])
    np.testing.assert_array_equal(numeric, test.numeric)
    np.testing.assert_array_equal(ids, test.ids)
    assert test.ids.shape[1] == 1 + 3 + 2 + 50 + 1
    assert set(test.ids[:, -1].tolist()) > {2, 3, 4}
    assert {-1, 0, 1, 2} <= set(test.ids[:, 1:4].ravel().tolist())


def test_the_time_of_a_request_stands_for_the_features_that_are_made_of_it(made: Made) -> None:
    assert made.bundle.inputs["hour"] == "string"
    assert made.bundle.inputs["ts"] == "timestamp"
    moment = datetime(2026, 3, 9, 23, 30, tzinfo=UTC)
    same: list[dict[str, Any]] = [
        {"ts": moment},
        {"ts": int(moment.timestamp()) * 1_000_000},
        {"ts": moment.astimezone(timezone(timedelta(hours=-5)))},
        {"hour": "8"},
        {"hour": 8},
        {"ts": moment + timedelta(hours=3), "hour": 8},
    ]
    rows = made.bundle.encode(same)[1][:, -1]
    assert len(set(rows.tolist())) == 1
    assert rows[0] == made.bundle.vocabulary["hour"]["8"]
    assert made.bundle.encode([{"ts": None}, {}])[1][:, -1].tolist() == [0, 0]


@pytest.mark.parametrize("time", [datetime(2026, 3, 9, 23, 30), "2026-03-09", 1.5, True, -1, 10**18])
def test_a_time_without_a_zone_or_unit_is_refused(made: Made, time: Any) -> None:
    with pytest.raises(BundleError, match=r"row 0: 'ts': found .*; expected a date and time with its zone, or"):
        made.bundle.encode([{"ts": time}])


def test_the_bundle_scores_as_the_ranker(made: Made) -> None:
    test = made.dataset.splits["test"]
    parity = check_parity(made.bundle, made.ranker, made.calibrators, test.numeric, test.ids)
    parity.require()
    assert parity.rows == len(test) + 5 + 4 + 1
    with torch.inference_mode():
        expected = made.ranker(torch.from_numpy(test.numeric.copy()), torch.from_numpy(test.ids.copy())).numpy()
    np.testing.assert_allclose(made.bundle.score(test.numeric, test.ids).logits, expected, atol=1e-5)


def test_lists_change_the_score(made: Made) -> None:
    row = next(row for row in requests() if row["past_items"] and row["taste"])
    texts: list[Any] = [row["past_items"], [], None, ["never seen"], ["never seen", "nor this"], [None]]
    rows = [row | {"past_items": text, "past_total": text} for text in texts] + [row | {"taste": None}]
    found = made.bundle.score(*made.bundle.encode(rows)).logits[:, 0]
    assert len({round(float(score), 6) for score in found[[0, 1, 2, 3, 6]]}) == 5
    assert found[2] == found[5]


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ({"tags": (1, 2)}, {"tags": ["1", "2"]}),
        ({"tags": np.array([1, 2])}, {"tags": [1, 2]}),
        ({"tags": pl.Series([1, 2])}, {"tags": [1.0, 2.0]}),
        ({"past_items": ["a", "b", "i1", "i2", "i3"]}, {"past_items": ["i1", "i2", "i3"]}),
        ({"taste": np.array([0.5, 1.0, 2.0])}, {"taste": [0.5, 1, 2]}),
        ({"taste": []}, {"taste": None}),
        ({"taste": [True, False, 3]}, {"taste": [1, 0, 3]}),
        ({"past_items": None}, {}),
    ],
)
def test_ways_to_write_a_list(made: Made, value: dict[str, Any], same: dict[str, Any]) -> None:
    (left, right), ids = made.bundle.encode([value, same])
    np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(ids[0], ids[1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"past_items": "i1"}, "row 0: feature 'past_items': found str; expected a list of categories, or null"),
        ({"past_items": [["i1"]]}, "row 0: feature 'past_items': found list; expected text"),
        ({"past_items": {"a": 1}}, "found dict; expected a list of categories"),
        ({"item": ["i1"]}, "feature 'item': found list; expected text"),
        ({"taste": 0.5}, "feature 'taste': found float; expected a list of numbers, or null"),
        ({"taste": [0.5]}, "feature 'taste': found 1 numbers; expected 3, or null"),
        ({"taste": [0.5, None, 1]}, "feature 'taste': one of its numbers is missing; expected 3 numbers"),
        ({"taste": [0.5, float("inf"), 1]}, "feature 'taste': found inf; expected a finite number"),
        ({"taste": [0.5, "x", 1]}, "feature 'taste': found str; expected a number"),
        ({"taste[0]": 0.5}, "feature 'taste[0]': the model has no such feature; did you mean 'taste'?"),
        ({"price": [1.0]}, "feature 'price': found list; expected a number or null"),
    ],
)
def test_a_wrong_list_is_refused(made: Made, value: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError) as caught:
        made.bundle.encode([value])
    assert message in str(caught.value)


def test_what_a_request_may_hold(made: Made) -> None:
    assert made.bundle.inputs == {
        "price": "double",
        "taste": "[double]",
        "item": "string",
        "past_items": "[string]",
        "past_total": "[string]",
        "tags": "[string]",
        "hour": "string",
        "ts": "timestamp",
    }


def test_padding_belongs_into_lists_only(made: Made) -> None:
    test = made.dataset.splits["test"]
    ids = test.ids[:2].astype(np.int64)
    ids[1, 0] = -1
    with pytest.raises(BundleError, match="row 1: item has embedding row -1; expected 0 to"):
        made.bundle.score(test.numeric[:2], ids)


def test_another_models_rows(made: Made) -> None:
    """The champion is compared on the rows of the new model, encoded as its own layout says."""
    bounds = split_bounds(made.spec, made.impressions["ts"].to_numpy(), made.dataset.splits["test"].ts.max() + 1)
    layout, vocabulary = made.dataset.layout, made.dataset.directory / "vocabulary.parquet"
    numeric, ids = other_models_test_rows(made.spec, bounds, made.tables, layout, vocabulary)
    assert numeric.shape[1] == 4
    assert ids.shape[1] == 57
    single = parse_spec(SPEC.replace("past_items, list: {max_length: 3}", "past_items, column: other"), "x")
    narrow = parse_spec(SPEC.replace("width: 3", "width: 2"), "x")
    for spec, name in ((single, "past_items"), (narrow, "taste[2]")):
        with pytest.raises(KeyError, match=name.replace("[", r"\[")):
            other_models_test_rows(spec, bounds, made.tables, layout, vocabulary)


def test_arrays_are_the_same_bytes_again(made: Made, tmp_path: Path) -> None:
    export_bundle(
        made.ranker,
        made.calibrators,
        made.dataset.layout,
        made.dataset.directory / "vocabulary.parquet",
        made.spec,
        tmp_path / "again",
    )
    assert Bundle.open(tmp_path / "again").sha256 == made.bundle.sha256
