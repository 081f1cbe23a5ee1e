"""The slices of the test rows, for the evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.orchestration.metadata import interval
from ctr_pipeline.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.evaluation import SliceMetrics
    from ctr_pipeline.features import Layout

MOST_SHOWN = 60
"""Slices of a task in the table of Dagster's page; evaluation.json has all, and all of each."""

MOST_LETTERS = 26
"""Letters of a slice's name in that table."""


def slice_values(spec: Spec, paths: RetrainPaths, dataset: "PackedDataset") -> "dict[str, NDArray[Any]]":
    """By dimension the value of each test row [N]: the standard slices, those by cold start, and those of the spec."""
    from ctr_pipeline.evaluation import standard_slices
    from ctr_pipeline.evaluation.declared_slices import cold_start_slices

    test, layout = dataset.splits["test"], dataset.layout
    slices = standard_slices(test.position, test.random, test.numeric, [column.name for column in layout.numeric])
    # What the model has learnt of last.
    learnt = dataset.splits["refit" if "refit" in dataset.splits else "train"]
    return (
        slices | cold_start_slices(layout, test.ids, learnt.ids) | dict(declared_values(spec, paths, dataset, "test"))
    )


def measured_slices(spec: Spec, paths: RetrainPaths) -> dict[str, list[dict[str, Any]]]:
    """By task the slices of the test rows.

    The scores know the position that was logged, where the model learns what it does: without it those of each position are
    off, as they must.
    """
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.evaluation import slice_metrics
    from ctr_pipeline.evaluation.declared_slices import interval_names

    dataset = PackedDataset.open(paths.packed)
    test = dataset.splits["test"]
    if not len(test):
        return {}
    slices = slice_values(spec, paths, dataset)
    tasks = [task.name for task in spec.tasks]
    files = RetrainFiles(paths)
    logits = files.calibrated("test", tasks, logged_position=True in files.position_modes)
    places = {
        (cut.title, name): place
        for cut in spec.evaluation.slices
        if cut.edges
        for place, name in enumerate(interval_names(cut.edges))
    }
    dimensions = list(slices)

    def place(found: "SliceMetrics") -> tuple[int, int]:
        return dimensions.index(found.dimension), places.get((found.dimension, found.value), 0)

    return {
        task: [
            found.to_json()
            for found in sorted(slice_metrics(logits[:, at], test.labels[:, at], slices, test.user), key=place)
        ]
        for at, task in enumerate(tasks)
    }


def declared_values(
    spec: Spec, paths: RetrainPaths, dataset: "PackedDataset", split: str
) -> "Iterator[tuple[str, NDArray[np.str_]]]":
    """By title, the value of each row [N] of a split in each slice that the spec declares."""
    from ctr_pipeline.evaluation.declared_slices import category_slices, interval_slices

    for declared in spec.evaluation.slices:
        if declared.edges:
            column = dataset.layout.number_places[declared.feature].start
            yield declared.title, interval_slices(dataset.splits[split].numeric[:, column], declared.edges)
        else:
            rows = dataset.splits[split].ids[:, category_place(dataset.layout, declared.feature)]
            yield declared.title, category_slices(rows, category_names(paths, dataset.layout, declared.feature))


def category_place(layout: "Layout", feature: str) -> int:
    """The column of the id array that a category of one value takes."""
    places: dict[str, int] = {of.name: at.start for of, at in zip(layout.ids, layout.id_places, strict=True)}
    return places[feature]


def category_names(paths: RetrainPaths, layout: "Layout", feature: str) -> dict[int, str]:
    """Value of each row of the vocabulary of a category."""
    import polars as pl

    [table] = [column.table or column.name for column in layout.ids if column.name == feature]
    entries = pl.scan_parquet(paths.packed / "vocabulary.parquet").filter(pl.col("feature") == table)
    return dict(entries.select("row", "key").collect().iter_rows())


def slice_rows(by_task: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each slice, those whose rates are off first; narrow enough for the page of a small window."""
    rows = []
    for task, slices in by_task.items():
        for found in sorted(slices, key=lambda of: not of["miscalibrated"])[:MOST_SHOWN]:
            shown = _short(found["dimension"], found["value"])
            off = " (off)" if found["miscalibrated"] else ""
            rows.append(
                {
                    "task": task,
                    "slice": shown,
                    "positives": found["positives"],
                    "O/E": f"{found['oe']['value']:.3f}{off}",
                }
            )
    return rows


def found_rows(by_task: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each slice that was found by search."""
    return [
        {
            "task": task,
            "slice": " and ".join(f"{of['feature']}: {of['value']}" for of in found["conditions"]),
            "positives": found["positives"],
            "O/E": interval(found["oe"]),
        }
        for task, search in by_task.items()
        for found in search["found"]
    ]


def _short(dimension: str, value: str) -> str:
    """Both in :data:`MOST_LETTERS`; what is cut is the dimension, as far as it goes, because values tell slices apart."""
    room = max(MOST_LETTERS - len(value) - 2, 6)
    named = dimension if len(dimension) <= room else f"{dimension[: room - 1]}…"
    whole = f"{named}: {value}"
    return whole if len(whole) <= MOST_LETTERS else f"{whole[: MOST_LETTERS - 1]}…"
