"""The ONNX file of a bundle, made of a torch module."""

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import external_data_helper
from torch import Tensor

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.features.request_columns import RequestColumns
from ctr_pipeline.serving.bundle import GRAPH, WEIGHTS
from ctr_pipeline.serving.calibrated_ranker import CalibratedRanker, evaluating
from ctr_pipeline.serving.column_gathers import REQUESTS, gather_columns_as_rows, without_whole_choices
from ctr_pipeline.serving.embedding_storage import Storage, store_embeddings
from ctr_pipeline.serving.request_values import BundleError

OPSET = 20

MOST_BYTES = 2**31 - 2**20
"""Weights that an ONNX file holds: it has at most 2 GiB, and its nodes take some of them."""

_SMALL = 1024
"""Bytes of a tensor below which it stays in the file of the graph."""


def write_graph(module: CalibratedRanker, layout: Layout, storage: Storage, folder: Path) -> None:
    """Writes the ONNX file into ``folder``: weights inside, no trace of the machine or the code that made it.

    Above :data:`MOST_BYTES` the weights are in :data:`WEIGHTS` beside it. The same module gives the same bytes.

    Args:
        module: What is exported; its tables are as they are after they were stored.
        layout: Its layout.
        storage: How its tables are stored.
        folder: An empty folder.

    Raises:
        BundleError: the exporter gives no model.
    """
    with _compiler_cache(folder / "torch"):
        model = _exported(module, layout)
    _strip(model)
    without_whole_choices(model)
    gather_columns_as_rows(model)
    store_embeddings(model, storage)
    model.producer_name = "ctr-pipeline"
    model.producer_version = ""
    path = folder / GRAPH
    if sum(tensor.ByteSize() for tensor in model.graph.initializer) <= MOST_BYTES:
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    external_data_helper.convert_model_to_external_data(model, location=WEIGHTS, size_threshold=_SMALL)
    external_data_helper.write_external_data_tensors(model, str(folder))
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)


def _exported(module: CalibratedRanker, layout: Layout) -> Any:
    inputs, shapes = _example_inputs(layout, module.requests is not None)
    with _quiet(), evaluating(module), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["logits", "probabilities"],
            dynamic_shapes=shapes,
            verbose=False,
        )
    if program is None:
        raise BundleError("export: the ONNX exporter gave no model")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter, which logs its progress and optional packages that are not installed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _example_inputs(layout: Layout, share: bool) -> tuple[dict[str, Tensor], tuple[dict[int, Any], ...]]:
    """Inputs to export with, by name, and which of their sizes may vary."""
    if not share:
        rows = torch.export.Dim("rows", min=1)
        numbers, ids = len(layout.numeric), len(layout.id_columns)
        found = {"numeric": torch.zeros(3, numbers), "ids": torch.zeros(3, ids, dtype=torch.int64)}
        return found, ({0: rows}, {0: rows})
    keys, candidates = torch.export.Dim(REQUESTS, min=1), torch.export.Dim("candidates", min=1)
    columns = RequestColumns.of(layout)
    found = {
        "numeric": torch.zeros(3, 5, len(columns.own_numbers)),
        "ids": torch.zeros(3, 5, len(columns.own_ids), dtype=torch.int64),
        "shared_numeric": torch.zeros(3, len(columns.shared_numbers)),
        "shared_ids": torch.zeros(3, len(columns.shared_ids), dtype=torch.int64),
    }
    return found, ({0: keys, 1: candidates}, {0: keys, 1: candidates}, {0: keys}, {0: keys})


@contextlib.contextmanager
def _compiler_cache(folder: Path) -> Iterator[None]:
    """Keeps the folder that torch makes for its compiler as soon as it exports out of the temporary directory."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ.setdefault(name, str(folder))
    try:
        yield
    finally:
        if before is None:
            # torch writes the name of its folder there too.
            os.environ.pop(name, None)
        shutil.rmtree(folder, ignore_errors=True)


def _strip(message: Any) -> None:
    """Removes comments and metadata (stack traces, paths) from an ONNX message and all messages inside it."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                _strip(part)
