"""Sides and rows without a training: what the tests of a comparison of two models begin with."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from ctr_pipeline.attribution.trained_side import ReplayRows, TrainedSide
from ctr_pipeline.calibration import PlattCalibrator
from ctr_pipeline.features.layout import Encoding, EventList, Frequency, IdColumn, Layout, NumericColumn, Pooled
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.spec import load_spec
from ctr_pipeline.spec.model import Model

SPECS = Path(__file__).parents[2] / "specs"
BINS = Encoding("piecewise_linear", edges=(-2.0, -1.0, 0.0, 1.0, 2.0), means=(0.5,) * 4)
LENGTH = 3
LAYOUT = Layout(
    numeric=(
        NumericColumn("price", "dense", "signed_log1p", 1.0, True, 0.5, 2.0),
        NumericColumn("age", "dense", "none", 0.0, True, 0.0, 1.0, encoding=BINS),
        NumericColumn("pixels[0]", "contextual", "none", 0.0, True, 0.0, 1.0),
        NumericColumn("pixels[1]", "contextual", "none", 0.0, False, 0.0, 1.0),
    ),
    ids=(
        IdColumn("ad", "categorical", 30, 4, frequency=Frequency(1.5, 0.8)),
        IdColumn("page", "contextual", 6, 4),
        IdColumn("tags", "categorical", 9, 4, Pooled(LENGTH, "mean", "first")),
    ),
    tasks=("click", "order"),
    parents=(-1, 0),
)  # fmt: skip
LISTED = replace(
    LAYOUT,
    numeric=(
        *LAYOUT.numeric,
        *(NumericColumn(f"recent_age[{at}]", "history", "none", 0.0, False, 0.0, 1.0) for at in range(LENGTH)),
    ),
    ids=(*LAYOUT.ids, IdColumn("recent", "history", 30, 4, Pooled(LENGTH, "mean", "first"), table="ad")),
    event_lists=(EventList("recent", "ad", None, "recent_age", LENGTH),),
)
MODELS: dict[str, dict[str, Any]] = {
    "no hidden layer": {"hidden": []},
    "pairs": {"pairs": [["ad", "page"]]},
    "no linear part": {"wide": False},
    "chain": {"heads": "chain"},
    **{kind: {"interactions": [{"kind": kind}]} for kind in (
        "factorisation_machine", "cross", "cross_mixture", "mask_net", "field_attention", "feature_gates", "residual_perceptron",
    )},
    **{kind: {"multi_task": {"kind": kind}, "heads": "chain"} for kind in ("task_towers", "mmoe", "ple", "aitm")},
    **{kind: {"sequences": [{"kind": kind}]} for kind in ("target_attention", "transformer")},
    "branches": {"branches": [{"name": "deep", "hidden": [8]}, {"name": "crossed", "interactions": [{"kind": "cross"}], "hidden": []}]},
}  # fmt: skip
"""By name the model section of each architecture."""

TEXTS = {"ad": [f"ad{n}" for n in range(40)], "page": list("abcdef"), "tags": [f"tag{n}" for n in range(9)]}


def vocabulary(layout: Layout, shuffled: int | None = None) -> pl.DataFrame:
    """The first texts of each column have a row; in another order where ``shuffled`` is given."""
    rows: list[tuple[str, str, int]] = []
    for column in layout.ids:
        if column.table is None:
            texts = TEXTS[column.name][: column.rows - 2]
            if shuffled is not None:
                texts = list(np.random.default_rng(shuffled).permutation(texts))
            rows += [(column.name, text, place) for place, text in enumerate(texts, start=2)]
    return pl.DataFrame(rows, schema={"feature": pl.String, "key": pl.String, "row": pl.Int64}, orient="row")


def grown(ranker: Ranker, seed: int) -> Ranker:
    """With weights about as large as after training."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for values in ranker.parameters():
            values.add_(0.5 * torch.randn_like(values) / max(1, values.shape[-1]) ** 0.5)
    return ranker.eval()


def side(
    seed: int, model: Mapping[str, Any] | None = None, layout: Layout = LAYOUT, *, shuffled: int | None = None
) -> TrainedSide:
    """A side with random weights and its own calibrators."""
    section = Model.model_validate({"embedding_dim": 4, "hidden": [16, 8], **(model or {})})
    return TrainedSide(
        name=f"side {seed}",
        spec=load_spec(SPECS / "ads.yaml"),
        layout=layout,
        vocabulary=vocabulary(layout, shuffled),
        network=grown(build_ranker(layout, section, seed), seed),
        calibrators=tuple(PlattCalibrator(a=0.8 + 0.1 * seed, b=-0.3 * seed) for _ in layout.tasks),
    )


def rows(count: int, seed: int = 0, by: TrainedSide | None = None, layout: Layout = LAYOUT) -> ReplayRows:
    """Rows in the clear, with labels drawn from the scores of ``by``."""
    draw = np.random.default_rng(seed)

    def some(values: pl.Series) -> pl.Series:
        return values.set(pl.Series(draw.random(count) < 0.1), None)

    def lists(texts: list[str], lengths: np.ndarray) -> pl.Series:
        return pl.Series([list(draw.choice(texts, n)) for n in lengths], dtype=pl.List(pl.String))

    there = draw.integers(0, LENGTH + 1, count)
    columns: dict[str, pl.Series] = {}
    for number in layout.numeric:
        values = pl.Series(draw.normal(0, 2, count).astype(np.float32))
        columns[number.name] = some(values.exp() if number.name == "price" else values)
    for place in range(LENGTH if layout.event_lists else 0):
        ages = pl.Series(draw.exponential(3600, count).astype(np.float32))
        columns[f"recent_age[{place}]"] = ages.set(pl.Series(there <= place), None)
    for column in layout.ids:
        texts = TEXTS[column.vocabulary]
        lengths = there if column.name == "recent" else draw.integers(0, LENGTH + 1, count)
        single = column.pooled is None
        columns[column.name] = some(pl.Series(draw.choice(texts, count)) if single else lists(texts, lengths))
    found = ReplayRows(
        values=pl.DataFrame(columns),
        impressions=pl.Series([f"{seed}-{n}" for n in range(count)]),
        labels=np.zeros((count, len(layout.tasks)), np.int8),
        tasks=layout.tasks,
        ts=draw.integers(0, 10**12, count),
        user=draw.integers(-1, max(count // 4, 1), count),
        position=draw.integers(0, 5, count).astype(np.int16),
        random=draw.random(count) < 0.2,
    )
    if by is None:
        return found
    chances = 1 / (1 + np.exp(-by.logits(found)))
    labels = (draw.random(chances.shape) < chances).astype(np.int8)
    labels[draw.random(count) < 0.05, -1] = -1
    return replace(found, labels=labels)
