"""The shop, with a feature that is made of events: how often the user was shown something in the two days before."""

from typing import Any

from ctr_pipeline.calibration import Calibrator, PlattCalibrator
from ctr_pipeline.features.layout import Layout, NumericColumn
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.serving.shop import Shop, randomise

SPEC = """
version: 1
name: shop
source: {impressions: {paths: [/secret/folder/log.parquet]}, events: [{paths: [/secret/folder/events.parquet]}]}
impression: {id: id, time: ts, user: user}
features:
  dense: [{name: price, transform: signed_log1p}, {name: rating}]
  categorical: [{name: ad}, {name: device, embedding_dim: 2}]
  contextual: [{name: hour, type: categorical, embedding_dim: 2}]
  history: [{name: seen_before, kind: count, key: user, days: 2, exact: true}]
tasks: [{name: click, window: 1h, label: {event: click}}]
serving: {log: {rate: 1.0}}
model: {hidden: [32, 16], embedding_dim: 8}
"""


def with_events(shop: Shop) -> Shop:
    """A model of that spec, which has the shop's inputs too."""
    spec = parse_spec(SPEC, "test")
    numeric = (*shop.layout.numeric, NumericColumn("seen_before", "history", "none", 2.0, False, 2.0, 3.0))
    layout = Layout(numeric=numeric, ids=shop.layout.ids, tasks=("click",), parents=(-1,))
    calibrators: dict[str, Calibrator] = {"click": PlattCalibrator(a=0.8, b=-0.5, rows=100, positives=10)}
    return Shop(spec, layout, randomise(build_ranker(layout, spec.model, 1)), calibrators, shop.vocabulary)


def shown(name: str, ts: int, user: str = "u1") -> dict[str, Any]:
    """An event: an impression."""
    return {"event": "impression", "impression_id": name, "ts": ts, "keys": {"user": user}}


def clicked(name: str, ts: int) -> dict[str, Any]:
    """An event: a click."""
    return {"event": "click", "impression_id": name, "ts": ts}
