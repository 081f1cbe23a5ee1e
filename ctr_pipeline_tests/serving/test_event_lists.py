"""A user's last events from a raw log to a bundle: packed, scored, exported, and read once for a request's candidates."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
import torch

from ctr_pipeline.calibration import PlattCalibrator
from ctr_pipeline.datasets import PackedDataset, Tables, fit_vocabulary, pack_dataset, split_bounds
from ctr_pipeline.datasets.view import other_models_test_rows
from ctr_pipeline.features import history_for_days, join_history
from ctr_pipeline.labels import label_table
from ctr_pipeline.lake import Lake
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.bundle import write_manifest
from ctr_pipeline.serving.export import check_parity, export_bundle
from ctr_pipeline.sources import Pseudonymiser, read_events, read_impressions
from ctr_pipeline.spec import Spec, parse_spec

SPEC = """
version: 1
name: recent
source: {impressions: {paths: [log.ndjson]}}
impression: {id: id, time: at, user: who}
features:
  dense: [{name: price}]
  categorical: [{name: item}]
  history:
    - {name: liked, kind: top, key: user, task: click, item: item, length: 2, half_life: 2d}
    - {name: recent, kind: sequence, key: user, events: [impression, click], item: item, length: 6, days: 3}
tasks: [{name: click, window: 0s, label: {column: clicked}}]
split: {test: {days: 2}, calibration: {days: 1}, validation: {days: 1}}
model: {hidden: [8], embedding_dim: 4, sequences: [target_attention, {kind: transformer, dim: 8}]}
"""
FIRST, DAYS, ROWS = date(2026, 3, 1), 10, 300
CANARY = "canary-user-"
KEY = Pseudonymiser(b"0123456789abcdef")


def raw_rows() -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    return [
        {
            "id": f"imp-{number}",
            "at": (start + timedelta(seconds=DAYS * 86_400 * number / ROWS)).isoformat(),
            # Some come once, near the end: they have no past.
            "who": f"{CANARY}{number if number > 270 and number % 3 == 0 else number % 7}",
            "price": float(draw.normal()),
            "item": f"i{draw.integers(0, 12)}",
            "clicked": int(draw.random() < 0.4),
        }
        for number in range(ROWS)
    ]


@dataclass(frozen=True)
class Made:
    spec: Spec
    tables: Tables
    dataset: PackedDataset
    ranker: Ranker
    bundle: Bundle
    calibrators: Mapping[str, PlattCalibrator]
    folder: Path
    requests: list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The log read, packed, weights as after a training, exported; and what a server would ask of each test row."""
    folder = tmp_path_factory.mktemp("recent")
    spec = parse_spec(SPEC, "recent.yaml")
    log = folder / "raw" / "log.ndjson"
    log.parent.mkdir()
    log.write_text("".join(json.dumps(row) + "\n" for row in raw_rows()), encoding="utf-8")
    last = FIRST + timedelta(days=DAYS - 1)
    kept = read_impressions(spec, [log], FIRST, last, KEY, FIRST).kept
    events = read_events(spec, [log], {}, FIRST, last, KEY, FIRST).kept
    days = [FIRST + timedelta(days=n) for n in range(DAYS)]
    lake = Lake(folder / "lake")
    lake.replace_days("impressions", kept, days)
    shown = lake.scan("impressions")
    as_of = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1_000_000) + DAYS * 86_400_000_000
    labels = label_table(shown, events.lazy(), spec.tasks, as_of, spec.split.ingest_lag).collect().lazy()
    history = history_for_days(spec, shown, events.lazy(), days).collect()
    lake.replace_days("history", history, days)
    tables = Tables(impressions=shown, labels=labels, history=history.lazy())
    bounds = split_bounds(spec, kept["ts"].to_numpy(), as_of)
    layout, vocabulary = fit_vocabulary(spec, bounds, tables.impressions, tables.history)
    dataset = pack_dataset(folder / "packed", spec, bounds, tables, layout, vocabulary, None, {})
    ranker = build_ranker(layout, spec.model, 1).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for table in ranker.embeddings.tables.values():
            table.table.weight[-1] = 0  # type: ignore[union-attr]
        ranker.wide.rows.table.weight[-1] = 0  # type: ignore[union-attr]
    calibrators = {"click": PlattCalibrator(a=1.1, b=-0.2)}
    bundle = export_bundle(ranker, calibrators, layout, folder / "packed" / "vocabulary.parquet", spec, folder / "b")
    joined = join_history(spec, shown, history.lazy()).collect().sort("ts", "impression_id")
    rows = joined.tail(len(dataset.splits["test"]))
    return Made(
        spec, tables, dataset, ranker, bundle, calibrators, folder, [request(row) for row in rows.iter_rows(named=True)]
    )


def request(row: dict[str, Any]) -> dict[str, Any]:
    """What a server looks up in the history table of the day."""
    count = sum(row[f"recent_{place}"] is not None for place in range(1, 7))
    return {
        "price": row["price"],
        "item": row["item"],
        "liked": [row[f"liked_{place}"] for place in (1, 2) if row[f"liked_{place}"] is not None],
        "recent": [row[f"recent_{place}"] for place in range(1, count + 1)],
        "recent_event": [row[f"recent_{place}_event"] for place in range(1, count + 1)],
        "recent_age": [row[f"recent_age[{place}]"] for place in range(count)],
    }


def test_packed_columns_stand_side_by_side(made: Made) -> None:
    layout = made.dataset.layout
    assert [(c.name, c.table, c.places) for c in layout.ids] == [
        ("item", None, 1), ("liked", "item", 2), ("recent", "item", 6), ("recent_event", None, 6),
    ]  # fmt: skip
    assert [c.name for c in layout.numeric] == ["price", *(f"recent_age[{place}]" for place in range(6))]
    test = made.dataset.splits["test"]
    items, kinds, ages = test.ids[:, 3:9], test.ids[:, 9:], test.numeric[:, 1:]
    there = items >= 0
    assert np.array_equal(there, kinds >= 0)
    assert np.array_equal(there, ~np.isnan(ages))
    # The latest first, and an empty list where there is no past.
    assert bool((ages[:, 1:][there[:, 1:]] >= ages[:, :-1][there[:, 1:]]).all())
    assert not there.all(axis=1).all()
    assert (~there.any(axis=1)).any()
    assert bool((test.ids[:, 1:3][~there.any(axis=1)] == -1).all())
    vocabulary = pl.read_parquet(made.folder / "packed" / "vocabulary.parquet")
    assert vocabulary["feature"].unique().sort().to_list() == ["item", "recent_event"]
    assert set(vocabulary.filter(pl.col("feature") == "recent_event")["key"]) == {"impression", "click"}


def test_a_request_gives_the_packed_inputs(made: Made) -> None:
    numeric, ids = made.bundle.encode(made.requests)
    test = made.dataset.splits["test"]
    np.testing.assert_array_equal(ids, test.ids)
    np.testing.assert_array_equal(numeric, test.numeric)
    assert made.bundle.inputs["recent"] == made.bundle.inputs["liked"] == "[string]"
    assert made.bundle.inputs["recent_age"] == "[double]"


def test_another_model_sees_the_same_rows(made: Made) -> None:
    test, bounds = made.dataset.splits["test"], split_bounds(
        made.spec, made.tables.impressions.select("ts").collect()["ts"].to_numpy(),
        int(datetime(2026, 3, 11, tzinfo=UTC).timestamp() * 1_000_000),
    )  # fmt: skip
    vocabulary = made.folder / "packed" / "vocabulary.parquet"
    numeric, ids = other_models_test_rows(made.spec, bounds, made.tables, made.dataset.layout, vocabulary)
    np.testing.assert_array_equal(numeric, test.numeric)
    np.testing.assert_array_equal(ids, test.ids)


def test_the_bundle_scores_as_the_ranker_alone_together_and_once_a_key(made: Made) -> None:
    test = made.dataset.splits["test"]
    parity = check_parity(made.bundle, made.ranker, made.calibrators, test.numeric, test.ids)
    parity.require()
    assert parity.batch <= 1e-6
    with torch.inference_mode():
        expected = made.ranker(torch.from_numpy(test.numeric.copy()), torch.from_numpy(test.ids.copy())).numpy()
    np.testing.assert_allclose(made.bundle.score(test.numeric, test.ids).logits, expected, atol=1e-5)


def test_events_of_one_key_are_given_once(made: Made) -> None:
    """The graph receives one row of events for all candidates of a request, and as many as rows for mixed ones."""
    received: list[dict[str, tuple[int, ...]]] = []

    class Noted:
        def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
            received.append({name: value.shape for name, value in inputs.items()})
            return made.bundle.session.run(names, inputs)

    bundle = Bundle(**{name: getattr(made.bundle, name) for name in Bundle.__slots__} | {"session": Noted()})
    one = next(row for row in made.requests if len(row["recent"]) == 6)
    candidates = [one | {"item": f"i{number}", "price": float(number)} for number in range(9)]
    scores = bundle.score(*bundle.encode(candidates))
    assert received[-1] == {"numeric": (1, 9, 1), "ids": (1, 9, 3), "shared_numeric": (1, 6), "shared_ids": (1, 12)}
    mixed = bundle.score(*bundle.encode([*candidates, one | {"recent": [], "recent_event": [], "recent_age": []}]))
    assert received[-1] == {
        "numeric": (10, 1, 1), "ids": (10, 1, 3), "shared_numeric": (10, 6), "shared_ids": (10, 12)
    }  # fmt: skip
    np.testing.assert_allclose(scores.probabilities, mixed.probabilities[:-1], atol=1e-6)
    assert len(set(scores.logits[:, 0].tolist())) == 9


def test_a_bundle_of_the_first_format_scores_as_it_did(made: Made, tmp_path: Path) -> None:
    """Its graph has names of its own for events, and its manifest the earlier format."""
    earlier = shutil.copytree(made.bundle.directory, tmp_path / "earlier")
    model = onnx.load(earlier / "model.onnx")
    names = {"shared_numeric": "ages", "shared_ids": "events"}
    for given in model.graph.input:
        given.name = names.get(given.name, given.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, earlier / "model.onnx")
    write_manifest(earlier, made.spec.name, made.dataset.layout.tasks)
    manifest = json.loads((earlier / "manifest.json").read_text())
    (earlier / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    test = made.dataset.splits["test"]
    found, expected = Bundle.open(earlier).score(test.numeric, test.ids), made.bundle.score(test.numeric, test.ids)
    np.testing.assert_array_equal(found.logits, expected.logits)


def test_candidates_may_share_more_than_events(made: Made, tmp_path: Path) -> None:
    serving = made.spec.serving.model_copy(update={"candidate_features": ["item"]})
    spec, layout = made.spec.model_copy(update={"serving": serving}), made.dataset.layout
    vocabulary = made.folder / "packed" / "vocabulary.parquet"
    bundle = export_bundle(made.ranker, made.calibrators, layout, vocabulary, spec, tmp_path / "shared")
    shapes = {given.name: given.shape for given in bundle.session.get_inputs()}
    # The item alone; price and ages, what was liked and events are shared.
    assert shapes["ids"] == ["keys", "candidates", 1]
    assert (shapes["shared_numeric"], shapes["shared_ids"]) == (["keys", 7], ["keys", 14])
    test = made.dataset.splits["test"]
    check_parity(bundle, made.ranker, made.calibrators, test.numeric, test.ids).require()


def test_a_model_that_reads_no_events_is_served_on_rows_that_have_them(made: Made, tmp_path: Path) -> None:
    model = made.spec.model.model_copy(update={"sequences": []})
    ranker = build_ranker(made.dataset.layout, model, 1).eval()
    vocabulary = made.folder / "packed" / "vocabulary.parquet"
    bundle = export_bundle(ranker, made.calibrators, made.dataset.layout, vocabulary, made.spec, tmp_path / "plain")
    test = made.dataset.splits["test"]
    check_parity(bundle, ranker, made.calibrators, test.numeric, test.ids).require()


def test_left_out_lists_are_those_of_a_user_without_a_past(made: Made) -> None:
    empty = {"item": "i1", "price": 1.0, "liked": [], "recent": [], "recent_event": [], "recent_age": []}
    rows = [empty, {"item": "i1", "price": 1.0}, empty | {"recent": None, "recent_event": None, "recent_age": None}]
    numeric, ids = made.bundle.encode(rows)
    assert bool((ids == ids[0]).all())
    assert bool((ids[:, 1:] == -1).all())
    assert bool(np.isnan(numeric[:, 1:]).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recent": ["i1"]}, "row 0: found 1 of recent, 0 of recent_event, 0 of recent_age; events have one item"),
        ({"recent": ["i1"], "recent_event": ["click"], "recent_age": [1.0, 2.0]}, "found 1 of recent, 1 of recent_event, 2"),
        ({"recent_age": 3.0}, "feature 'recent_age': found float; expected a list of values"),
        ({"recent": ["i1"], "recent_event": ["click"], "recent_age": ["soon"]}, "feature 'recent_age': found str"),
    ],
)  # fmt: skip
def test_lists_that_do_not_belong_together_are_refused(change: dict[str, Any], message: str, made: Made) -> None:
    with pytest.raises(BundleError, match=message):
        made.bundle.encode([{"item": "i1", **change}])


def test_longer_lists_are_cut_to_the_latest_events(made: Made) -> None:
    long = {
        "recent": [f"i{n}" for n in range(9)],
        "recent_event": ["click"] * 9,
        "recent_age": [float(n) for n in range(9)],
    }
    short = {name: values[:6] for name, values in long.items()}
    for one, other in zip(made.bundle.encode([long]), made.bundle.encode([short]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_raw_user_is_in_what_was_written(made: Made) -> None:
    files = [file for file in made.folder.rglob("*") if file.is_file() and "raw" not in file.parts]
    assert len(files) > 10
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content += str(pl.read_parquet(file).to_dict(as_series=False)).encode()
        assert CANARY.encode() not in content, file
    # The bundle needs no user at all: not even hashes of them are in it.
    hashes = made.tables.impressions.select(pl.col("user").unique()).collect()["user"].to_list()
    assert len(hashes) > 7
    served = b"".join(file.read_bytes() for file in (made.folder / "b").iterdir())
    assert not [text for text in hashes if text.encode() in served]
