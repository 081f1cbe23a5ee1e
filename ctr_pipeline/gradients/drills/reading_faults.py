"""Faults on the way from packed rows to the model: batches, missing numbers, padding, storage."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, register_fault, table_of


def _twice(batches: Iterator[BatchView], _: int, __: np.random.Generator) -> Iterator[BatchView]:
    for batch in batches:
        yield batch
        yield batch


def _missing_from_some_step(batches: Iterator[BatchView], step: int, rng: np.random.Generator) -> Iterator[BatchView]:
    first = int(rng.integers(20, 60)) if step == 0 else 0
    for at, batch in enumerate(batches, step):
        if at < first:
            yield batch
            continue
        numeric = batch.numeric.clone()
        numeric[:, 1] = torch.nan
        yield replace(batch, numeric=numeric)


def _logarithm(training: DrilledTraining, _: np.random.Generator) -> None:
    inner = training.model.numeric.forward

    def forward(raw: Tensor) -> Tensor:
        encoded: Tensor = inner(raw).clone()
        encoded[:, 1] = torch.log(raw[:, 1])
        return encoded

    module: Any = training.model.numeric
    module.forward = forward


def _padding(training: DrilledTraining, rng: np.random.Generator) -> None:
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    for module in training.model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].normal_(0.0, 0.5, generator=generator)
            module.padding_idx = None


def _half(training: DrilledTraining, _: np.random.Generator) -> None:
    table = table_of(training)
    table.data = table.data.half()


for _fault in (
    Fault(name="stale_batch", family="batches", symptom="the loss of the training falls faster than that of the validation",
          cause="each batch is learnt twice: the loader hands out a buffer that it reuses", fix="copy the batch, or wait for it",
          batches=_twice),
    Fault(name="nan_feature_at_step", family="missing", symptom="the loss rises a little at some step and stays there",
          cause="from some step on a feature is NaN, which is read as missing", fix="repair what makes the feature",
          batches=_missing_from_some_step, named=("feature_missing",), located=("rating",)),
    Fault(name="log_of_negative", family="missing", symptom="the first loss is NaN",
          cause="a feature is transformed by a logarithm, and some of its values are negative", fix="take sign(x) · log(1 + |x|)",
          inject=_logarithm, located=("rating", "numeric")),
    Fault(name="padding_row_trained", family="padding", symptom="rows with short lists are predicted like each other",
          cause="the row for places after the end of a list is learnt", fix="give the table a padding_idx", inject=_padding,
          with_list=True, located=("embeddings.tables.width_4.table.weight",)),
    Fault(name="fp16_embedding", family="storage", symptom="embeddings stop learning once updates are small",
          cause="a table is stored in 16 bits", fix="store it in float32", inject=_half,
          located=("embeddings.tables.width_4.table.weight", "ad", "query", "device")),
):  # fmt: skip
    register_fault(_fault)
