from pathlib import Path

import numpy as np
import pytest

from ctr_pipeline.datasets import SPLITS, PackedDataset, PackedSplit, write_split
from ctr_pipeline.datasets.class_counts import class_counts, one_class_parts
from ctr_pipeline.features import Layout, NumericColumn

LAYOUT = Layout(
    numeric=(NumericColumn("price", "dense", "none", 0.0, True, 0.0, 1.0),),
    ids=(),
    tasks=("click", "buy"),
    parents=(-1, 0),
)
BOTH = [1, 0, -1]


def dataset(folder: Path, labels: dict[tuple[str, str], list[int]]) -> PackedDataset:
    """A dataset whose labels have both classes, but for those given."""
    for name in SPLITS:
        columns = [labels.get((task, name), BOTH) for task in LAYOUT.tasks]
        rows = len(columns[0])
        split = PackedSplit(
            numeric=np.zeros((rows, 1), np.float32),
            ids=np.zeros((rows, 0), np.int32),
            labels=np.array(columns, np.int8).reshape(2, rows).T,
            weights=np.ones((rows, 2), np.float32),
            ts=np.arange(rows, dtype=np.int64) + 1_700_000_000_000_000,
            user=np.full(rows, -1, np.int64),
            position=np.ones(rows, np.int16),
            random=np.zeros(rows, np.bool_),
        )
        write_split(folder, name, split)
    (folder / "layout.json").write_text(LAYOUT.to_json())
    return PackedDataset.open(folder)


def test_labels_that_are_not_settled_count_for_neither_class(tmp_path: Path) -> None:
    counts = class_counts(dataset(tmp_path, {}), LAYOUT.tasks)
    assert {(found.task, found.part) for found in counts} == {(task, part) for task in LAYOUT.tasks for part in SPLITS}
    assert {(found.positives, found.negatives) for found in counts} == {(1, 1)}
    assert one_class_parts(dataset(tmp_path, {}), LAYOUT.tasks) == []


@pytest.mark.parametrize("part", SPLITS)
@pytest.mark.parametrize("task", LAYOUT.tasks)
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 0, -1], "has no positive among its 2 labelled rows."),
        ([1, 1, 1], "has no negative among its 3 labelled rows."),
        ([-1, -1, -1], "has no settled label."),
    ],
    ids=["no positive", "only positives", "none settled"],
)
def test_a_part_with_one_class_is_named_with_its_task_and_days(
    tmp_path: Path, task: str, part: str, labels: list[int], words: str
) -> None:
    [reason] = one_class_parts(dataset(tmp_path, {(task, part): labels}), LAYOUT.tasks)
    assert reason.startswith(f"{task}: the {part} part (2023-11-14T22:13:20Z to ")
    assert reason.endswith(words)


def test_a_part_without_rows_is_named(tmp_path: Path) -> None:
    found = dataset(tmp_path, {("click", "calibration"): [], ("buy", "calibration"): []})
    assert one_class_parts(found, LAYOUT.tasks) == [
        "click: the calibration part has no rows.",
        "buy: the calibration part has no rows.",
    ]
