"""From a trained ranker to a bundle. The only part of serving that needs torch."""

import contextlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import onnx
import polars as pl
import torch
import yaml
from numpy.typing import NDArray
from scipy import special
from torch import Tensor, nn
from torch.func import functional_call

from ctr_pipeline.calibration import Calibrator, OffsetCalibrator, calibrated_logits, calibrator_to_json
from ctr_pipeline.calibration.field_offsets import offsets_module
from ctr_pipeline.calibration.modules import curves
from ctr_pipeline.features.history_definition import history_definition
from ctr_pipeline.features.layout import MISSING_ROW, PADDING, UNKNOWN_ROW, Layout
from ctr_pipeline.features.request_columns import RequestColumns
from ctr_pipeline.ranker import Ranker
from ctr_pipeline.ranker.shared_inputs import SharedInputs
from ctr_pipeline.serving.bundle import FILES, MANIFEST, MAX_PROBABILITY_DIFFERENCE, Bundle, Scores, write_manifest
from ctr_pipeline.serving.column_gathers import gather_columns_as_rows
from ctr_pipeline.serving.parity import Parity, measure_parity, probe_rows
from ctr_pipeline.serving.request_values import BundleError
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.candidate_features import candidate_inputs

OPSET = 20
GOLDEN_ROWS = 16
MAX_MODEL_BYTES = 2**31 - 1
"""Largest ONNX file with its weights inside."""


class CalibratedRanker(nn.Module):
    """What is exported: the ranker, and the calibration of each task's logit.

    Args:
        ranker: The trained ranker.
        calibrators: One for each task, in order.
        layout: The layout that the ranker was built with, and the features in which candidates differ.
    """

    def __init__(self, ranker: Ranker, calibrators: Sequence[Calibrator], layout: Layout) -> None:
        super().__init__()
        self.ranker = ranker
        self.requests = SharedInputs(ranker, layout) if shares_inputs(layout, ranker) else None
        self._calibration = (curves(calibrators),)
        # Buffers of this module, so that they have the names and the place in the file that earlier bundles gave them.
        self._own: dict[str, str] = {}
        for name, values in self._calibration[0].state_dict().items():
            self._own[name] = name.replace(".", "_")
            self.register_buffer(self._own[name], values)
        self.field_offsets = offsets_module(calibrators)

    def forward(
        self, numeric: Tensor, ids: Tensor, shared_numeric: Tensor | None = None, shared_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [N, T] and calibrated probabilities [N, T] of numeric [N, D] and ids [N, F].

        With ``shared_numeric`` [G, …] and ``shared_ids`` [G, …], what the C candidates of each of G requests share, of numeric
        [G, C, …] and ids [G, C, …] without it, N = G·C. What is computed of that alone is computed G times.
        """
        if shared_numeric is None or shared_ids is None:
            inputs = self.ranker.encode(numeric, ids)
        else:
            assert self.requests is not None, "built with the layout of a model whose candidates share inputs"
            inputs = self.requests(self.ranker, shared_numeric, shared_ids, numeric, ids)
        logits = self.ranker.score(self.ranker.hidden(inputs), inputs)
        return logits, torch.sigmoid(self._along_the_funnel(self.calibrate(logits, inputs.ids)))

    def calibrate(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Calibrated logits [N, T] of logits [N, T] and ids [N, F], each task's by itself."""
        values = {name: self.get_buffer(own) for name, own in self._own.items()}
        calibrated: Tensor = functional_call(self._calibration[0], values, (logits,))
        return calibrated if self.field_offsets is None else calibrated + self.field_offsets(ids)

    def _along_the_funnel(self, calibrated: Tensor) -> Tensor:
        """As :func:`~ctr_pipeline.calibration.funnel.calibrated_logits`: no task likelier than its parent."""
        found: list[Tensor] = []
        for task, parent in enumerate(self.ranker.parents):
            own = calibrated[:, task]
            found.append(own if parent < 0 else torch.minimum(own, found[parent]))
        return torch.stack(found, dim=1)


def shares_inputs(layout: Layout, ranker: Ranker) -> bool:
    """Whether the candidates of a request share inputs that the graph reads once."""
    if ranker.sequences is not None:
        return True
    columns = RequestColumns.of(layout)
    return bool(layout.candidate_features and (columns.shared_numbers or columns.shared_ids))


def export_bundle(
    ranker: Ranker,
    calibrators: Mapping[str, Calibrator],
    layout: Layout,
    vocabulary: Path,
    spec: Spec,
    directory: Path,
) -> Bundle:
    """Writes the bundle of a trained ranker and opens it, which verifies it.

    The same model gives the same bytes. An older bundle in ``directory`` is replaced once the new one is complete.

    Args:
        ranker: The trained ranker; its mode and device stay as they are.
        calibrators: Task to its calibrator.
        layout: The layout that the ranker was built with.
        vocabulary: Parquet file with feature, key and row.
        spec: The spec; absolute paths of its logs are reduced to file names.
        directory: The bundle's folder.

    Raises:
        BundleError: a task has no calibrator, the vocabulary does not fit the layout, the weights are not finite or
            above 2 GiB, or the exported model does not score the golden rows as the ranker does.
    """
    layout = replace(layout, candidate_features=candidate_inputs(spec.features, spec.serving.candidate_features or ()))
    module = _calibrated(ranker, calibrators, layout)
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_vocabulary(vocabulary, layout, partial / "vocabulary.parquet")
    with _compiler_cache(partial / "torch"):
        (partial / "model.onnx").write_bytes(_onnx_bytes(module, layout))
    (partial / "layout.json").write_text(layout.to_json(), encoding="utf-8")
    (partial / "spec.yaml").write_text(_spec_text(spec), encoding="utf-8")
    _write_json(partial / "calibration.json", {task: calibrator_to_json(calibrators[task]) for task in layout.tasks})
    _write_json(partial / "golden.json", _golden(module, layout))
    history = history_definition(spec) if spec.features.history else None
    write_manifest(partial, spec.name, layout.tasks, history)
    Bundle.open(partial)
    if directory.is_dir():
        others = sorted(entry.name for entry in directory.iterdir() if entry.name not in (*FILES, MANIFEST))
        if others:
            raise BundleError(
                f"{directory}: has files that do not belong to a bundle ({others[0]}). Name another folder."
            )
        shutil.rmtree(directory)
    partial.rename(directory)
    return Bundle.open(directory)


def reference_scores(
    ranker: Ranker, calibrators: Mapping[str, Calibrator], layout: Layout, numeric: NDArray[Any], ids: NDArray[Any]
) -> Scores:
    """Scores of numeric [N, D] and ids [N, F] by the trained ranker itself."""
    return _run(_calibrated(ranker, calibrators, layout), numeric, ids)


def check_parity(
    bundle: Bundle, ranker: Ranker, calibrators: Mapping[str, Calibrator], numeric: NDArray[Any], ids: NDArray[Any]
) -> Parity:
    """Compares a bundle with the ranker it was exported from, on sample rows and on the corners of the input space.

    Args:
        bundle: The bundle.
        ranker: The trained ranker.
        calibrators: Task to its calibrator.
        numeric: [N, D] raw numbers of sample rows; may be empty.
        ids: [N, F] embedding rows of sample rows.
    """
    numbers, rows = probe_rows(numeric, ids, bundle.layout)
    expected = reference_scores(ranker, calibrators, bundle.layout, numbers, rows)
    return measure_parity(bundle, numbers, rows, expected)


def _calibrated(ranker: Ranker, calibrators: Mapping[str, Calibrator], layout: Layout) -> CalibratedRanker:
    absent = [task for task in layout.tasks if task not in calibrators]
    if absent:
        raise BundleError(f"export: task {absent[0]!r} has no calibrator; found {sorted(calibrators)}")
    for name, values in ranker.state_dict().items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise BundleError(
                f"export: {name} of the ranker holds values that are not finite. Do not serve this model."
            )
    module = CalibratedRanker(ranker, [calibrators[task] for task in layout.tasks], layout)
    _check_calibration(module, calibrators, layout)
    return module


def _check_calibration(module: CalibratedRanker, calibrators: Mapping[str, Calibrator], layout: Layout) -> None:
    """Refuses calibrators that evaluate one way in numpy, where they were measured, and another in the graph."""
    logits = np.linspace(-30, 30, 1201, dtype=np.float32)
    of_all = np.repeat(logits[:, None], len(layout.tasks), axis=1)
    lowest, highest = layout.id_rows
    ids = lowest + np.arange(len(logits))[:, None] % (highest - lowest + 1)
    with _evaluating(module), torch.inference_mode():
        found = torch.sigmoid(module.calibrate(torch.from_numpy(of_all), torch.from_numpy(ids))).numpy()
    alone = [-1] * len(layout.tasks)
    expected = special.expit(calibrated_logits([calibrators[task] for task in layout.tasks], alone, of_all, ids))
    for column, task in enumerate(layout.tasks):
        difference = np.max(np.abs(found[:, column] - expected[:, column]))
        if not difference <= MAX_PROBABILITY_DIFFERENCE:
            own = calibrators[task]
            curve = own.curve if isinstance(own, OffsetCalibrator) else own
            raise BundleError(
                f"export: the calibrator of task {task!r} ({type(curve).__name__}) gives probabilities that "
                f"differ by up to {difference:.3g} between `apply` and `module` (limit {MAX_PROBABILITY_DIFFERENCE:g}). "
                "Make both compute the same."
            )


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each submodule then gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _run(module: CalibratedRanker, numeric: NDArray[Any], ids: NDArray[Any]) -> Scores:
    numbers = torch.from_numpy(np.ascontiguousarray(numeric, dtype=np.float32))
    rows = torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64))
    with _evaluating(module), torch.inference_mode():
        logits, probabilities = module(numbers, rows)
    return Scores(logits.numpy(), probabilities.numpy())


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


def _onnx_bytes(module: CalibratedRanker, layout: Layout) -> bytes:
    """The ONNX file: weights inside, no trace of the machine or the code that made it."""
    weights = sum(values.numel() * values.element_size() for values in module.state_dict().values())
    if weights > MAX_MODEL_BYTES:
        raise BundleError(f"export: {weights:,} bytes of weights; one ONNX file holds at most {MAX_MODEL_BYTES:,}.")
    inputs, shapes = _example_inputs(layout, module.requests is not None)
    with _quiet(), _evaluating(module), torch.no_grad():
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
    model = program.model_proto
    _strip(model)
    gather_columns_as_rows(model)
    model.producer_name = "ctr-pipeline"
    model.producer_version = ""
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _example_inputs(layout: Layout, share: bool) -> tuple[dict[str, Tensor], tuple[dict[int, Any], ...]]:
    """Inputs to export with, by name, and which of their sizes may vary."""
    if not share:
        rows = torch.export.Dim("rows", min=1)
        numbers, ids = len(layout.numeric), len(layout.id_columns)
        found = {"numeric": torch.zeros(3, numbers), "ids": torch.zeros(3, ids, dtype=torch.int64)}
        return found, ({0: rows}, {0: rows})
    keys, candidates = torch.export.Dim("keys", min=1), torch.export.Dim("candidates", min=1)
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


def _golden(module: CalibratedRanker, layout: Layout) -> dict[str, Any]:
    """Made-up rows, from the layout alone, and what the trained model predicts for them."""
    generator = np.random.default_rng(0)
    numeric = np.empty((GOLDEN_ROWS, len(layout.numeric)), dtype=np.float32)
    ids = np.empty((GOLDEN_ROWS, len(layout.id_columns)), dtype=np.int64)
    for index, column in enumerate(layout.numeric):
        drawn = column.mean + column.std * generator.normal(size=GOLDEN_ROWS)
        raw = np.sign(drawn) * np.expm1(np.minimum(np.abs(drawn), 50)) if column.transform == "signed_log1p" else drawn
        numeric[:, index] = np.where(generator.random(GOLDEN_ROWS) < 0.2, np.nan, raw)
    for table, places in zip(layout.ids, layout.id_places, strict=True):
        ids[:, places] = generator.integers(0, table.rows, (GOLDEN_ROWS, table.places))
        if table.pooled is not None:
            lengths = generator.integers(0, table.places + 1, (GOLDEN_ROWS, 1))
            ids[:, places][np.arange(table.places) >= lengths] = PADDING
    numeric[0], ids[0] = np.nan, layout.lone(MISSING_ROW)
    ids[1] = layout.lone(UNKNOWN_ROW)
    scores = _run(module, numeric, ids)
    return {
        "numeric": [[None if np.isnan(value) else float(value) for value in row] for row in numeric],
        "ids": ids.tolist(),
        "logits": np.round(scores.logits.astype(np.float64), 6).tolist(),
        "probabilities": np.round(scores.probabilities.astype(np.float64), 8).tolist(),
    }


def _write_vocabulary(source: Path, layout: Layout, target: Path) -> None:
    """The part of the vocabulary that serving needs, in a fixed order."""
    try:
        frame = pl.read_parquet(source, columns=["feature", "key", "row"])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BundleError(f"{source}: no vocabulary with columns feature, key and row: {error}") from error
    for table in layout.ids:
        rows = frame.filter(pl.col("feature") == table.vocabulary)["row"]
        if len(rows) != table.rows - 2 or (len(rows) and (rows.min(), rows.n_unique()) != (2, len(rows))):
            raise BundleError(
                f"{source}: feature {table.name!r} has {len(rows)} keys; the layout has embedding rows 2 to "
                f"{table.rows - 1} for them. Use the vocabulary that the dataset was packed with."
            )
    kept = frame.filter(pl.col("feature").is_in([table.name for table in layout.ids])).sort("feature", "row")
    kept.select(pl.col("feature", "key").cast(pl.String), pl.col("row").cast(pl.Int64)).write_parquet(target)


def _spec_text(spec: Spec) -> str:
    """The spec as YAML, without the folders of this machine."""
    content = spec.model_dump(mode="json")
    for log in (content["source"]["impressions"], *content["source"]["events"]):
        log["paths"] = [PurePath(path).name if PurePath(path).is_absolute() else path for path in log["paths"]]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
