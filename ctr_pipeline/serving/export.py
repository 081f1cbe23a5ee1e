"""From a trained ranker to a bundle. The only part of serving that needs torch."""

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration import Calibrator, OffsetCalibrator, calibrated_logits, calibrator_to_json
from ctr_pipeline.features.history_definition import history_definition
from ctr_pipeline.features.layout import MISSING_ROW, PADDING, UNKNOWN_ROW, Layout
from ctr_pipeline.ranker import Ranker
from ctr_pipeline.serving.bundle import (
    FILES,
    MANIFEST,
    MAX_PROBABILITY_DIFFERENCE,
    WEIGHTS,
    Bundle,
    Scores,
    write_manifest,
)
from ctr_pipeline.serving.calibrated_ranker import CalibratedRanker, evaluating
from ctr_pipeline.serving.embedding_storage import TABLE, Storage, rounded
from ctr_pipeline.serving.graph_file import write_graph
from ctr_pipeline.serving.parity import Parity, measure_parity, probe_rows
from ctr_pipeline.serving.request_values import BundleError
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.candidate_features import candidate_inputs

GOLDEN_ROWS = 16


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
        BundleError: a task has no calibrator, the vocabulary does not fit the layout, the weights are not finite or too
            large for their storage, or the exported model does not score the golden rows as the ranker does.
    """
    layout = replace(layout, candidate_features=candidate_inputs(spec.features, spec.serving.candidate_features or ()))
    storage = spec.serving.embedding_storage
    module = _calibrated(stored_ranker(ranker, storage), calibrators, layout)
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_vocabulary(vocabulary, layout, partial / "vocabulary.parquet")
    write_graph(module, layout, storage, partial)
    (partial / "layout.json").write_text(layout.to_json(), encoding="utf-8")
    (partial / "spec.yaml").write_text(_spec_text(spec), encoding="utf-8")
    _write_json(partial / "calibration.json", {task: calibrator_to_json(calibrators[task]) for task in layout.tasks})
    _write_json(partial / "golden.json", _golden(module, layout))
    history = history_definition(spec) if spec.features.history else None
    write_manifest(partial, spec.name, layout.tasks, history)
    Bundle.open(partial)
    if directory.is_dir():
        others = sorted(entry.name for entry in directory.iterdir() if entry.name not in (*FILES, WEIGHTS, MANIFEST))
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
    bundle: Bundle,
    ranker: Ranker,
    calibrators: Mapping[str, Calibrator],
    numeric: NDArray[Any],
    ids: NDArray[Any],
    storage: Storage = "fp32",
) -> Parity:
    """Compares a bundle with the ranker it was exported from, on sample rows and on the corners of the input space.

    Args:
        bundle: The bundle.
        ranker: The trained ranker.
        calibrators: Task to its calibrator.
        numeric: [N, D] raw numbers of sample rows; may be empty.
        ids: [N, F] embedding rows of sample rows.
        storage: How the bundle stores embeddings. It is compared with the ranker whose embeddings are rounded so, and that one
            with the ranker itself.
    """
    numbers, rows = probe_rows(numeric, ids, bundle.layout)
    expected = reference_scores(stored_ranker(ranker, storage), calibrators, bundle.layout, numbers, rows)
    found = measure_parity(bundle, numbers, rows, expected)
    if storage == "fp32":
        return found
    exact = reference_scores(ranker, calibrators, bundle.layout, numbers, rows).probabilities
    return replace(found, storage=float(np.max(np.abs(exact - expected.probabilities))))


def stored_ranker(ranker: Ranker, storage: Storage) -> Ranker:
    """The ranker with embeddings as they are after they were stored; itself where nothing is rounded.

    Raises:
        BundleError: an embedding is too large.
    """
    if storage == "fp32":
        return ranker
    stored = copy.deepcopy(ranker)
    for name, values in stored.named_parameters():
        if name.endswith(TABLE):
            try:
                own = rounded(values.detach().cpu().numpy(), storage)
            except OverflowError as error:
                raise BundleError(
                    f"export: {name} holds {error}, which `serving.embedding_storage: {storage}` cannot: use int8 or fp32"
                ) from None
            values.data.copy_(torch.from_numpy(own))
    return stored


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
    with evaluating(module), torch.inference_mode():
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


def _run(module: CalibratedRanker, numeric: NDArray[Any], ids: NDArray[Any]) -> Scores:
    numbers = torch.from_numpy(np.ascontiguousarray(numeric, dtype=np.float32))
    rows = torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64))
    with evaluating(module), torch.inference_mode():
        logits, probabilities = module(numbers, rows)
    return Scores(logits.numpy(), probabilities.numpy())


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
