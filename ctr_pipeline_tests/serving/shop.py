"""A small ranker with every kind of input, and its exported bundle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from ctr_pipeline.calibration import Calibrator, PlattCalibrator
from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.export import export_bundle
from ctr_pipeline.spec import Spec, parse_spec

SPEC = """
version: 1
name: shop
source: {impressions: {paths: [/secret/folder/log.parquet]}}
impression: {id: id, time: ts}
features:
  dense: [{name: price, transform: signed_log1p}, {name: rating}]
  categorical: [{name: ad}, {name: device, embedding_dim: 2}]
  contextual: [{name: hour, type: categorical, embedding_dim: 2}]
tasks:
  - {name: click, window: 0s, label: {column: clicked}}
  - {name: buy, parent: click, window: 0s, label: {column: bought}}
  - {name: like, window: 0s, label: {column: liked}}
model: {hidden: [32, 16], embedding_dim: 8, dropout: 0.2, embedding_dropout: 0.1}
"""
# The same with outcomes that are events.
TIMED = SPEC.replace(
    "source: {impressions: {paths: [/secret/folder/log.parquet]}}",
    "source: {impressions: {paths: [/secret/log.parquet]}, events: [{paths: [/secret/events.parquet]}]}",
)
for task, column, window in (("click", "clicked", "6h"), ("buy", "bought", "6h"), ("like", "liked", "2d")):
    TIMED = TIMED.replace(f"window: 0s, label: {{column: {column}}}", f"window: {window}, label: {{event: {task}}}")

VOCABULARY = {"ad": ["a1", "a2", "é", "7"], "device": ["phone", "desk"], "hour": ["0", "1", "13", "true"]}


@dataclass(frozen=True)
class Shop:
    spec: Spec
    layout: Layout
    ranker: Ranker
    calibrators: dict[str, Calibrator]
    vocabulary: Path

    def export(self, directory: Path) -> Bundle:
        return export_bundle(self.ranker, self.calibrators, self.layout, self.vocabulary, self.spec, directory)

    def rows(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Random inputs with missing numbers, missing ids and unknown ids."""
        rng = np.random.default_rng(seed)
        numeric = (rng.normal(size=(n, len(self.layout.numeric))) * 30).astype(np.float32)
        numeric[rng.random(numeric.shape) < 0.2] = np.nan
        ids = np.stack([rng.integers(0, column.rows, n) for column in self.layout.ids], axis=1)
        return numeric, ids


def make_layout() -> Layout:
    return Layout(
        numeric=(
            NumericColumn("price", "dense", "signed_log1p", 12.0, True, 2.5, 1.2),
            NumericColumn("rating", "dense", "none", 4.1, False, 4.0, 0.4),
        ),
        ids=(
            IdColumn("ad", "categorical", 2 + len(VOCABULARY["ad"]), 8),
            IdColumn("device", "categorical", 2 + len(VOCABULARY["device"]), 2),
            IdColumn("hour", "contextual", 2 + len(VOCABULARY["hour"]), 2),
        ),
        tasks=("click", "buy", "like"),
        parents=(-1, 0, -1),
    )


def randomise(ranker: Ranker, seed: int = 0) -> Ranker:
    """Weights as large as those of a trained model: fresh ones score all rows nearly alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in ranker.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    return ranker


def make_shop(folder: Path) -> Shop:
    spec, layout = parse_spec(SPEC, "test"), make_layout()
    vocabulary = folder / "vocabulary.parquet"
    records = [
        {"feature": feature, "key": key, "row": row, "count": 10 - row, "first_day": None, "last_day": None}
        for feature, keys in VOCABULARY.items()
        for row, key in enumerate(keys, start=2)
    ]
    pl.DataFrame(records[::-1]).write_parquet(vocabulary)
    calibrators = {
        "like": PlattCalibrator(a=1.2, b=0.3),
        "click": PlattCalibrator(a=0.8, b=-0.5, rows=100, positives=10),
        "buy": PlattCalibrator(reason="left as it is: no row has a settled label"),
    }
    return Shop(spec, layout, randomise(build_ranker(layout, spec.model, 1)), calibrators, vocabulary)
