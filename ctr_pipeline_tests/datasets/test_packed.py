from pathlib import Path

import numpy as np
import pytest

from ctr_pipeline.datasets import SPLITS, DatasetError, PackedDataset, PackedSplit, create_split, write_split
from ctr_pipeline.features import IdColumn, Layout, NumericColumn

LAYOUT = Layout(
    numeric=(NumericColumn("price", "dense", "none", 0.0, True, 0.0, 1.0),),
    ids=(IdColumn("ad", "categorical", 20_000_000, 2), IdColumn("geo", "contextual", 3, 2)),
    tasks=("click",),
    parents=(-1,),
)


def a_split(rows: int) -> PackedSplit:
    return PackedSplit(
        numeric=np.linspace(0, 1, rows, dtype=np.float32).reshape(rows, 1),
        ids=np.full((rows, 2), 16_777_217, np.int32),
        labels=np.zeros((rows, 1), np.int8),
        weights=np.ones((rows, 1), np.float32),
        ts=np.arange(rows, dtype=np.int64) + 1_700_000_000_000_001,
        user=np.full(rows, -1, np.int64),
        position=np.ones(rows, np.int16),
        random=np.zeros(rows, np.bool_),
    )


def write_dataset(directory: Path, sizes: tuple[int, int, int, int] = (5, 0, 1, 2)) -> None:
    for name, rows in zip(SPLITS, sizes, strict=True):
        write_split(directory, name, a_split(rows))
    (directory / "layout.json").write_text(LAYOUT.to_json())


def test_what_is_written_is_what_is_opened(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    dataset = PackedDataset.open(tmp_path)
    assert dataset.layout == LAYOUT
    assert {name: len(split) for name, split in dataset.splits.items()} == dict(zip(SPLITS, (5, 0, 1, 2), strict=True))
    for name, array in dataset.splits["train"].arrays().items():
        np.testing.assert_array_equal(array, a_split(5).arrays()[name])
        assert isinstance(array, np.memmap)
    # 16777217 is the first whole number that float32 cannot hold.
    assert int(dataset.splits["train"].ids[0, 0]) == 16_777_217


def test_created_split_is_filled_in_place(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    split = create_split(tmp_path, "test", 3, LAYOUT)
    split.labels[1:] = 1
    assert PackedDataset.open(tmp_path).splits["test"].labels.tolist() == [[0], [1], [1]]
    assert len(create_split(tmp_path, "test", 0, LAYOUT)) == 0
    assert len(PackedDataset.open(tmp_path).splits["test"]) == 0


def test_an_incomplete_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Pack it first"):
        PackedDataset.open(tmp_path)
    write_dataset(tmp_path)
    (tmp_path / "test" / "ids.npy").unlink()
    with pytest.raises(DatasetError, match=r"ids\.npy: absent"):
        PackedDataset.open(tmp_path)
    (tmp_path / "test" / "ids.npy").write_bytes(b"not an array")
    with pytest.raises(DatasetError, match="not a readable array"):
        PackedDataset.open(tmp_path)


def test_arrays_of_another_layout_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    np.save(tmp_path / "train" / "numeric.npy", np.zeros((5, 2), np.float32))
    with pytest.raises(DatasetError, match=r"expected float32 of shape \(5, 1\)"):
        PackedDataset.open(tmp_path)


def test_ids_in_floats_are_refused(tmp_path: Path) -> None:
    arrays = a_split(2).arrays()
    arrays["ids"] = arrays["ids"].astype(np.float32)
    with pytest.raises(DatasetError, match="ids must hold int32"):
        write_split(tmp_path, "train", PackedSplit(**arrays))


def test_arrays_need_equal_lengths() -> None:
    arrays = a_split(2).arrays()
    arrays["ts"] = arrays["ts"][:1]
    with pytest.raises(DatasetError, match="same number of rows"):
        PackedSplit(**arrays)


def test_some_tasks_of_a_dataset_have_their_own_columns_and_parents(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    whole = PackedDataset.open(tmp_path)
    assert whole.of_tasks([]) is whole
    last = whole.layout.tasks[-1]
    own = whole.of_tasks([last])
    assert (own.layout.tasks, own.layout.parents) == ((last,), (-1,))
    assert own.layout.ids == whole.layout.ids
    for name, split in own.splits.items():
        np.testing.assert_array_equal(split.labels, whole.splits[name].labels[:, -1:])
        np.testing.assert_array_equal(split.weights, whole.splits[name].weights[:, -1:])
        assert split.ids is whole.splits[name].ids
    again = whole.of_tasks(list(reversed(whole.layout.tasks)))
    assert (again.layout.tasks, again.layout.parents) == (whole.layout.tasks, whole.layout.parents)
    with pytest.raises(DatasetError, match="no task 'unheard' here; its tasks are"):
        whole.of_tasks(["unheard"])
