"""Sequences that look back from the request: a model scores through ``POST /events`` as on its packed test rows."""

import json
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient

from ctr_pipeline.calibration import PlattCalibrator
from ctr_pipeline.datasets import Tables, fit_vocabulary, pack_dataset, split_bounds
from ctr_pipeline.features import history_for_days
from ctr_pipeline.labels import label_table
from ctr_pipeline.online.event_store import EventStore
from ctr_pipeline.online.feature_store import FeatureStore
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.export import export_bundle
from ctr_pipeline.serving.http import Limits, ServedModel, ServedModels, ServiceMetrics, build_service
from ctr_pipeline.serving.http.request_history import RequestHistory
from ctr_pipeline.sources import Pseudonymiser, read_events, read_impressions
from ctr_pipeline.spec import Spec, parse_spec

SPEC = """
version: 1
name: recent
source:
  impressions: {paths: [log.ndjson]}
  events: [{name: events, paths: [events.ndjson], type: what, impression_id: id, time: at, ingest_time: came}]
impression: {id: id, time: at, ingest_time: came, user: who}
features:
  dense: [{name: price}]
  categorical: [{name: item}]
  history:
    - {name: liked, kind: sequence, key: user, task: click, item: item, length: 2, days: 2, exact: true}
    - {name: recent, kind: sequence, key: user, events: [impression, click], item: item, length: 6, days: 3, exact: true}
    - {name: seen, kind: count, key: user, days: 2, exact: true}
tasks: [{name: click, window: 2h, label: {event: click}}]
split: {test: {days: 2}, calibration: {days: 1}, validation: {days: 1}, ingest_lag: 1h}
model: {hidden: [8], embedding_dim: 4, sequences: [target_attention]}
"""
FIRST, DAYS, ROWS = date(2026, 3, 1), 8, 400
KEY = Pseudonymiser(b"0123456789abcdef")
HOUR = 3_600_000_000


@dataclass
class Logs:
    """Raw rows, with times as texts and, in ``us``, their arrival."""

    shown: list[dict[str, Any]] = field(default_factory=list)
    happened: list[dict[str, Any]] = field(default_factory=list)


def raw_logs() -> Logs:
    draw, logs = np.random.default_rng(0), Logs()
    start = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
    for number in range(ROWS):
        # Some are shown together, and some arrive late.
        at = start + DAYS * 24 * HOUR * (number // 2 * 2) // ROWS
        came = at + int(draw.choice([0, 1, 2 * HOUR, 30 * HOUR], p=[0.5, 0.2, 0.2, 0.1]))
        user, item = f"u{number % 9}", f"i{draw.integers(0, 12)}"
        row = {"id": f"imp-{number}", "who": user, "price": float(draw.normal()), "item": item}
        logs.shown.append(row | {"at": text(at), "came": text(came), "us": came, "ts": at})
        if draw.random() < 0.5:
            clicked = at + int(draw.integers(0, 3 * HOUR))
            came = clicked + int(draw.choice([0, HOUR, 20 * HOUR]))
            event = {"id": f"imp-{number}", "what": "click", "at": text(clicked), "came": text(came)}
            logs.happened.append(event | {"us": came, "ts": clicked})
    return logs


def text(us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Made:
    spec: Spec
    logs: Logs
    bundle: Bundle
    tested: pl.DataFrame
    scores: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, spec, logs = tmp_path_factory.mktemp("recent"), parse_spec(SPEC, "recent.yaml"), raw_logs()
    files = {}
    for name, rows in (("log", logs.shown), ("events", logs.happened)):
        files[name] = folder / f"{name}.ndjson"
        kept = [{key: value for key, value in row.items() if key not in ("us", "ts")} for row in rows]
        files[name].write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    last = FIRST + timedelta(days=DAYS - 1)
    shown = read_impressions(spec, [files["log"]], FIRST, last, KEY, FIRST).kept
    events = read_events(spec, [files["log"]], {"events": [files["events"]]}, FIRST, last, KEY, FIRST).kept
    assert (shown.height, events.height > 150) == (ROWS, True)
    days = [FIRST + timedelta(days=n) for n in range(DAYS)]
    as_of = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1_000_000) + DAYS * 24 * HOUR
    labels = label_table(shown.lazy(), events.lazy(), spec.tasks, as_of, spec.split.ingest_lag).collect().lazy()
    history = history_for_days(spec, shown.lazy(), events.lazy(), days).collect()
    tables = Tables(impressions=shown.lazy(), labels=labels, history=history.lazy())
    bounds = split_bounds(spec, shown["ts"].to_numpy(), as_of)
    layout, vocabulary = fit_vocabulary(spec, bounds, tables.impressions, tables.history)
    dataset = pack_dataset(folder / "packed", spec, bounds, tables, layout, vocabulary, None, {})
    torch.manual_seed(3)
    ranker = build_ranker(layout, spec.model, 1).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    calibrators = {"click": PlattCalibrator(a=1.1, b=-0.2)}
    bundle = export_bundle(ranker, calibrators, layout, folder / "packed" / "vocabulary.parquet", spec, folder / "b")
    test = dataset.splits["test"]
    began, ended = bounds.intervals["test"]
    inside = pl.col("ts").is_between(began, ended, closed="left"), pl.col("ingest_ts") <= bounds.label_as_of("test")
    rows = shown.filter(*inside).sort("ts", "impression_id")
    assert rows.height == len(test)
    return Made(spec, logs, bundle, rows, bundle.score(test.numeric, test.ids).probabilities[:, 0])


def test_scores_through_events_are_those_of_the_packed_rows(made: Made, tmp_path: Path) -> None:
    now = [0]
    events = EventStore(tmp_path / "events", made.spec)
    store = FeatureStore(tmp_path, made.spec, events=events)
    model = ServedModel.of(made.bundle, KEY.of_text, {})
    history = RequestHistory.of(
        made.bundle, made.spec, store, KEY.of_text, lambda: now[0], model.encoder.declared_shared, events
    )
    client = TestClient(
        build_service(
            ServedModels.of(replace(model, history=history)), limits=Limits(), token=None, clock=time.perf_counter,
            metrics=ServiceMetrics(), version="0",
        )
    )  # fmt: skip
    happened = [
        (row["us"], {"event": "impression", "impression_id": row["id"], "ts": row["ts"],
                     "keys": {"user": row["who"], "item": row["item"]}})
        for row in made.logs.shown
    ]  # fmt: skip
    happened += [
        (row["us"], {"event": "click", "impression_id": row["id"], "ts": row["ts"]}) for row in made.logs.happened
    ]
    happened.sort(key=lambda one: one[0])
    by_id = {KEY.of_text(row["id"]): row for row in made.logs.shown}
    found, listed = [], 0
    for name, ts in made.tested.select("impression_id", "ts").iter_rows():
        # What arrives at the instant of a request is not known yet.
        while happened and happened[0][0] < ts:
            now[0], event = happened.pop(0)
            answer = client.post("/events", json={"events": [event]})
            assert answer.json() == {"accepted": 1, "repeated": 0, "too_old": 0}, answer.text
        raw = by_id[name]
        content = {"user": raw["who"], "ts": ts, "price": raw["price"], "item": raw["item"]}
        answer = client.post("/score", json={"shared": content})
        found.append(answer.json()["scores"]["click"][0])
        [(items, _, _)] = events.lists(events.sequences[1], [KEY.of_text(raw["who"])], [ts])
        listed += len(items)
    assert len(found) >= 90
    assert listed > 4 * len(found)
    np.testing.assert_allclose(found, made.scores, rtol=0, atol=1e-5)
    # A model that looks back otherwise would score otherwise.
    assert np.ptp(made.scores) > 0.05
    described = client.get("/model").json()["history"]["keys"]
    assert described["user"]["inputs"][:2] == ["seen", "liked_1"]
