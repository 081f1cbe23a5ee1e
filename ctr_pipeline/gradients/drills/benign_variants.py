"""Trainings with nothing wrong that differ from the usual one: no check may refuse them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills.fault import Fault

FAMILY = "healthy"


def _drifted(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    """Later rows of a shop whose prices rose by a quarter and whose ratings became a little better and wider."""
    numeric = rows.numeric.copy()
    numeric[:, 0] *= 1.25
    numeric[:, 1] = 0.1 + 1.1 * numeric[:, 1]
    return replace(rows, numeric=numeric)


def _fewer_clicks(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    """Rows of which a fifth of those with a click is not there."""
    kept = (rows.labels[:, 0] != 1) | (rng.random(len(rows)) < 0.8)
    return replace(rows, **{name: array[kept] for name, array in rows.arrays().items()})


def _variant(name: str, **changed: Any) -> Fault:
    training = {key: value for key, value in changed.items() if key not in ("rows", "other_rows", "model")}
    rest: dict[str, Callable[..., PackedSplit] | dict[str, Any]] = {
        key: value for key, value in changed.items() if key in ("rows", "other_rows", "model")
    }
    made = Fault(name=name, family=FAMILY, symptom="none", cause="nothing is wrong", fix="none", training=training)
    return replace(made, **rest)  # type: ignore[arg-type]


BENIGN: tuple[Fault, ...] = (
    _variant("usual"),
    _variant("rates_third", learning_rate=0.001, embedding_learning_rate=0.0167),
    _variant("rates_threefold", learning_rate=0.009, embedding_learning_rate=0.15),
    _variant("batches_of_64", batch_size=64, epochs=1),
    _variant("batches_of_1000", batch_size=1000, epochs=10),
    _variant("one_batch_an_epoch", batch_size=8192, epochs=15),
    _variant("decay", weight_decay=0.01, embedding_l2=1e-4),
    _variant("no_warm_up", warmup_fraction=0.0),
    _variant("tight_clipping", clip_norm=0.5),
    _variant("label_smoothing", label_smoothing=0.05),
    _variant("sixteen_bits", precision="bf16"),
    _variant("half_precision", precision="fp16"),
    _variant("larger_model", model={"hidden": [64, 32, 16]}),
    _variant("no_linear_part", model={"wide": False, "normalisation": "none"}),
    _variant("independent_heads", model={"heads": "independent"}),
    _variant("factorisation_machine", model={"interactions": [{"kind": "factorisation_machine"}]}),
    _variant("logits_alone", model={"hidden": []}),
    _variant("drifted_rows", other_rows=_drifted),
    _variant("fewer_clicks_later", other_rows=_fewer_clicks),
    _variant("fewer_clicks_earlier", rows=_fewer_clicks),
)
"""What differs is the name. Not registered as faults: nothing is to be found."""
