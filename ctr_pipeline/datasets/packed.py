"""Packed arrays on disk: one file a column group, memory-mapped."""

import hashlib
import json
import mmap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.errors import UserError
from ctr_pipeline.features.layout import Layout

SPLITS = ("train", "validation", "calibration", "test")
"""The parts of every dataset, in time order."""

REFIT = "refit"
"""What is learnt once the epochs are chosen, where a model is fitted again: training and validation."""

_TYPES: dict[str, type[np.generic]] = {
    "numeric": np.float32,
    "ids": np.int32,
    "labels": np.int8,
    "weights": np.float32,
    "ts": np.int64,
    "user": np.int64,
    "position": np.int16,
    "random": np.bool_,
    "group": np.int64,
    "elapsed": np.float32,
    "delay": np.float32,
}
_OPTIONAL = {"group", "elapsed", "delay"}
"""Arrays that a dataset has only where the spec asks for them."""


class DatasetError(UserError):
    """Data that cannot be split, packed or opened; the message says what was found, expected, and what to do."""


@dataclass(frozen=True, slots=True)
class PackedSplit:
    """The rows of one part of a dataset. N rows, D numbers, F ids, T tasks."""

    numeric: NDArray[np.float32]
    """[N, D] raw values; NaN = missing."""
    ids: NDArray[np.int32]
    """[N, F] embedding rows: 0 = missing, 1 = unknown or rare, from 2 the vocabulary; -1 = beyond the end of a list."""
    labels: NDArray[np.int8]
    """[N, T] 1 or 0; -1 = not settled, masked in loss and metrics."""
    weights: NDArray[np.float32]
    """[N, T] weight of each label in the loss; mean 1 over the training rows."""
    ts: NDArray[np.int64]
    """[N] time of the impression, microseconds since 1970-01-01 UTC."""
    user: NDArray[np.int64]
    """[N] code of the row's cluster for resampling; -1 = the row is a cluster of its own."""
    position: NDArray[np.int16]
    """[N] slot, 1 for the first; 0 = not logged."""
    random: NDArray[np.bool_]
    """[N] whether the order was randomised."""
    group: NDArray[np.int64] | None = None
    """[N] code of the group within which the row is ranked against others, where the spec names one; -1 = none."""
    elapsed: NDArray[np.float32] | None = None
    """[N, T] seconds from the impression to the instant as of which its label is taken, or up to which outcomes had been
    delivered; NaN where training does not look at the pair. Of the training rows, where a task learns from open labels."""
    delay: NDArray[np.float32] | None = None
    """[N, T] seconds from the impression until the outcome was known; NaN while none is. Where ``elapsed`` is."""

    def __post_init__(self) -> None:
        rows = {name: len(array) for name, array in self.arrays().items()}
        if len(set(rows.values())) > 1:
            raise DatasetError(f"packed split: its arrays need the same number of rows, found {rows}")

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by file name (without ending)."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in found.items() if array is not None}


@dataclass(frozen=True, slots=True)
class PackedDataset:
    """A directory of packed arrays, opened."""

    directory: Path
    """Where the arrays lie."""
    layout: Layout
    """Meaning of their columns."""
    splits: Mapping[str, PackedSplit]
    """Train, validation, calibration, test; and refit where the model is fitted again."""

    @classmethod
    def open(cls, directory: Path, splits: Collection[str] = ()) -> Self:
        """The dataset in ``directory``, its arrays memory-mapped and read-only.

        Args:
            directory: Where it lies.
            splits: Names of the splits to open, as where others were not kept; all of them when empty.

        Raises:
            DatasetError: the directory is no complete packed dataset.
        """
        layout_file = directory / "layout.json"
        if not layout_file.is_file():
            raise DatasetError(f"{directory}: no packed dataset here (layout.json is absent). Pack it first.")
        layout = Layout.from_json(layout_file.read_text(encoding="utf-8"))
        splits = {name: _open_split(directory / name, layout) for name in splits or _splits_of(directory)}
        return cls(directory=directory, layout=layout, splits=splits)

    def of_tasks(self, tasks: Sequence[str]) -> Self:
        """The same rows with the labels of some tasks alone; a task whose parent is not among them has none.

        Args:
            tasks: Names, in any order; the dataset itself when empty.

        Raises:
            DatasetError: the dataset lacks one of them.
        """
        if not tasks:
            return self
        own = self.layout.tasks
        if unknown := [name for name in tasks if name not in own]:
            raise DatasetError(f"{self.directory}: no task {unknown[0]!r} here; its tasks are {', '.join(own)}")
        columns = [place for place, name in enumerate(own) if name in tasks]
        parents = tuple(columns.index(p) if (p := self.layout.parents[place]) in columns else -1 for place in columns)
        layout = replace(self.layout, tasks=tuple(own[place] for place in columns), parents=parents)
        by_task = ("labels", "weights", "elapsed", "delay")
        splits = {
            name: replace(split, **{a: v[:, columns] for a, v in split.arrays().items() if a in by_task})
            for name, split in self.splits.items()
        }
        return type(self)(directory=self.directory, layout=layout, splits=splits)

    def manifest(self) -> dict[str, Any]:
        """What was packed: rows, bounds, label states, table versions, SHA-256 of every array."""
        content: dict[str, Any] = json.loads((self.directory / "manifest.json").read_text(encoding="utf-8"))
        return content


def create_split(directory: Path, name: str, rows: int, layout: Layout, optional: Collection[str] = ()) -> PackedSplit:
    """An empty split ``directory/name`` of ``rows`` rows: writable memory maps, to be filled piece by piece.

    ``optional`` names the arrays that it has though not all datasets do.
    """
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for array, shape in _shapes(rows, layout).items():
        if array in _OPTIONAL and array not in optional:
            continue
        arrays[array] = np.lib.format.open_memmap(folder / f"{array}.npy", mode="w+", dtype=_TYPES[array], shape=shape)
    return PackedSplit(**arrays)


def release(split: PackedSplit) -> None:
    """Writes what was filled to disk and gives its memory back; the arrays stay usable."""
    for array in split.arrays().values():
        mapped = array.base
        if isinstance(mapped, mmap.mmap):
            mapped.flush()
            mapped.madvise(mmap.MADV_DONTNEED)


def write_split(directory: Path, name: str, split: PackedSplit) -> None:
    """Writes ``split`` as the files ``directory/name/*.npy``.

    Raises:
        DatasetError: an array has another element type than the format's.
    """
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    for array, values in split.arrays().items():
        if values.dtype != _TYPES[array]:
            raise DatasetError(
                f"split {name}: {array} must hold {np.dtype(_TYPES[array])}, found {values.dtype}. Convert it."
            )
        np.save(folder / f"{array}.npy", np.ascontiguousarray(values), allow_pickle=False)


def array_files(directory: Path) -> Iterator[Path]:
    """Every array file of the dataset in ``directory``, in a fixed order."""
    for name in _splits_of(directory):
        for array in _TYPES:
            path = directory / name / f"{array}.npy"
            if array not in _OPTIONAL or path.exists():
                yield path


def array_digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every array file of the dataset in ``directory``, by its path within it."""
    found = {}
    for path in array_files(directory):
        with path.open("rb") as file:
            found[path.relative_to(directory).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _splits_of(directory: Path) -> tuple[str, ...]:
    return (*SPLITS, REFIT) if (directory / REFIT).is_dir() else SPLITS


def _open_split(folder: Path, layout: Layout) -> PackedSplit:
    arrays: dict[str, Any] = {}
    for array, dtype in _TYPES.items():
        path = folder / f"{array}.npy"
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            if array in _OPTIONAL:
                continue
            raise DatasetError(f"{path}: absent; the dataset is incomplete. Pack it again.") from error
        except (ValueError, OSError) as error:
            raise DatasetError(f"{path}: not a readable array ({error}). Pack the dataset again.") from error
        expected = _shapes(len(values), layout)[array]
        if values.dtype != dtype or values.shape != expected:
            raise DatasetError(
                f"{path}: expected {np.dtype(dtype)} of shape {expected} for this layout, "
                f"found {values.dtype} of shape {values.shape}. Pack the dataset again."
            )
        arrays[array] = values
    return PackedSplit(**arrays)


def _shapes(rows: int, layout: Layout) -> dict[str, tuple[int, ...]]:
    widths = {
        "numeric": (len(layout.numeric),),
        "ids": (len(layout.id_columns),),
        "labels": (len(layout.tasks),),
        "weights": (len(layout.tasks),),
        "elapsed": (len(layout.tasks),),
        "delay": (len(layout.tasks),),
    }
    return {array: (rows, *widths.get(array, ())) for array in _TYPES}
