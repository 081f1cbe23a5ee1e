"""The model's inputs and outputs in order: what packing, ranker, export and serving agree on."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ctr_pipeline.errors import UserError

Group = Literal["dense", "categorical", "contextual", "history"]
"""The section of the spec that declares a feature."""

MISSING_ROW = 0
"""Embedding row of a missing value."""

UNKNOWN_ROW = 1
"""Embedding row of a value that the vocabulary does not hold: rare in training, or new since."""

FIRST_VOCABULARY_ROW = 2
"""Embedding row of the most frequent value."""


class LayoutError(UserError):
    """A layout that contradicts itself; the message says where."""


@dataclass(frozen=True, slots=True)
class NumericColumn:
    """One number: raw value → ``fill`` where missing → ``transform`` → (x - mean) / std."""

    name: str
    """Name of the feature."""
    group: Group
    """Section of the spec that declares it: dense, contextual or history."""
    transform: Literal["none", "signed_log1p"]
    """Applied after the fill; signed_log1p is sign(x) · log(1 + abs(x))."""
    fill: float
    """Value of a missing number, on the raw scale."""
    indicator: bool
    """Whether the model also gets a 0/1 input for whether the value was missing."""
    mean: float
    """Mean over the training rows, after fill and transform."""
    std: float
    """Population standard deviation over the training rows, after fill and transform; 1 for a constant."""


@dataclass(frozen=True, slots=True)
class IdColumn:
    """One embedded category."""

    name: str
    """Name of the feature."""
    group: Group
    """Section of the spec that declares it: categorical, contextual or history."""
    rows: int
    """Height of the embedding table: row 0 = missing, row 1 = unknown or rare, from row 2 the vocabulary."""
    dim: int
    """Width of the embedding."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Inputs and outputs of a ranker, in the order of the packed arrays.

    Numbers: dense, contextual, history. Ids: categorical, contextual, history. Tasks: as in the spec, parents first.
    """

    numeric: tuple[NumericColumn, ...]
    """Columns of the numeric array."""
    ids: tuple[IdColumn, ...]
    """Columns of the id array."""
    tasks: tuple[str, ...]
    """Columns of the label array."""
    parents: tuple[int, ...]
    """Index of each task's parent in ``tasks``; -1 = none."""

    def __post_init__(self) -> None:
        names = [*(column.name for column in self.numeric), *(column.name for column in self.ids)]
        if len(set(names)) < len(names):
            raise LayoutError(f"layout: features need different names, found {names}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise LayoutError(f"layout: at least one task, all with different names, expected; found {self.tasks}")
        if len(self.parents) != len(self.tasks) or any(not -1 <= p < i for i, p in enumerate(self.parents)):
            raise LayoutError(f"layout: each task's parent must be an earlier task or -1, found {self.parents}")
        for column in self.numeric:
            numbers = (column.fill, column.mean, column.std)
            if not all(map(math.isfinite, numbers)) or column.std <= 0:
                raise LayoutError(
                    f"layout: {column.name}: fill, mean and a positive std must be finite, found {numbers}"
                )
        for id_column in self.ids:
            if id_column.rows < FIRST_VOCABULARY_ROW or id_column.dim < 1:
                raise LayoutError(
                    f"layout: {id_column.name}: at least {FIRST_VOCABULARY_ROW} rows and width 1 expected, "
                    f"found {id_column.rows} rows and width {id_column.dim}"
                )

    def to_json(self) -> str:
        """The layout as JSON text, the same text for the same layout; read back by :meth:`from_json`."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """The layout in JSON ``text``.

        Raises:
            LayoutError: the text is no layout.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            return cls(
                numeric=tuple(NumericColumn(**column) for column in content["numeric"]),
                ids=tuple(IdColumn(**column) for column in content["ids"]),
                tasks=tuple(content["tasks"]),
                parents=tuple(content["parents"]),
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise LayoutError(
                f"layout: not a layout written by this pipeline: {error}. Pack the dataset again."
            ) from error
