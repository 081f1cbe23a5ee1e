"""The table `scores`: every scored row of a retrain. Documented in docs/scores.md."""

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import SCORED_SPLITS, RetrainFiles, TrainingOutcome
from ctr_pipeline.orchestration.assets.slices import category_names, category_place
from ctr_pipeline.spec import Spec

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.datasets import PackedDataset, Tables
    from ctr_pipeline.evaluation.scores import ScoredSplit, Texts
    from ctr_pipeline.lake import Lake


def write_scores(spec: Spec, paths: RetrainPaths, lake: "Lake", tables: "Tables", day: str) -> dict[str, Any]:
    """Replaces the rows of this retrain; what Dagster shows of the table.

    Raises:
        DatasetError: the impressions are not those that were packed.
    """
    from ctr_pipeline.evaluation.scores import SCORES_TABLE
    from ctr_pipeline.lake.only_version import write_only_version

    written = write_only_version(lake, SCORES_TABLE, date.fromisoformat(day), _pieces(spec, paths, tables))
    return {
        # Short names: the widest one takes its room from all tables beside it.
        "scores_rows": written.rows,
        "delta_version": written.version,
        "scores_file": dg.MetadataValue.path(str(lake.root / SCORES_TABLE / f"day={day}")),
    }


def _pieces(spec: Spec, paths: RetrainPaths, tables: "Tables") -> "Iterator[pl.DataFrame]":
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.datasets.scored_rows import scored_rows
    from ctr_pipeline.evaluation.scores import score_rows

    files, dataset = RetrainFiles(paths), PackedDataset.open(paths.packed)
    bounds, run = files.examples().bounds, files.mlflow_run()
    sha256 = str(TrainingOutcome.read(paths.result).facts.get("model_sha256", ""))
    tasks = [task.name for task in spec.tasks]
    for split in SCORED_SPLITS:
        scored = _scored_split(spec, paths, dataset, split)
        for at, shown in scored_rows(bounds, split, tables.impressions, dataset.splits[split].ts):
            yield score_rows(scored, at, shown, tasks, model_sha256=sha256, run_id=run.run_id)


def _scored_split(spec: Spec, paths: RetrainPaths, dataset: "PackedDataset", split: str) -> "ScoredSplit":
    from ctr_pipeline.evaluation.scores import ScoredSplit

    files, packed, tasks = RetrainFiles(paths), dataset.splits[split], [task.name for task in spec.tasks]
    return ScoredSplit(
        split=split,
        position=packed.position,
        clusters=packed.user,
        groups=packed.group,
        labels=packed.labels,
        logits=files.scores(split),
        calibrated=files.calibrated(split, tasks),
        logged=files.calibrated(split, tasks, logged_position=True) if True in files.position_modes else None,
        texts=_texts(spec, paths, dataset, split),
    )


def _texts(spec: Spec, paths: RetrainPaths, dataset: "PackedDataset", split: str) -> "dict[str, Texts]":
    """The declared slices, then each category of one value that is not stored as a keyed hash."""
    from ctr_pipeline.evaluation.declared_slices import category_texts, interval_names, interval_places
    from ctr_pipeline.evaluation.scores import Texts, slice_columns

    packed, layout = dataset.splits[split], dataset.layout

    def category(feature: str) -> Texts:
        place = category_place(layout, feature)
        values = category_texts(layout.id_columns[place].rows, category_names(paths, layout, feature))
        return Texts(codes=packed.ids[:, place], values=values)

    columns, found = slice_columns([declared.title for declared in spec.evaluation.slices]), {}
    for declared in spec.evaluation.slices:
        if declared.edges:
            numbers = packed.numeric[:, layout.number_places[declared.feature].start]
            codes, values = interval_places(numbers, declared.edges), interval_names(declared.edges)
            found[columns[declared.title]] = Texts(codes=codes, values=values)
        else:
            found[columns[declared.title]] = category(declared.feature)
    open_ones = spec.features.open_categories(spec.private_columns)
    return found | {f"feature_{name}": category(name) for name in open_ones}
