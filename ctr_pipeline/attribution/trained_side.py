"""One of two models that are compared: what it was trained with, and rows in the clear that any of them can score."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import polars_hash  # noqa: F401  (registers the expression namespace `nchash`)
import torch
from numpy.typing import NDArray

from ctr_pipeline.calibration import Calibrator, calibrated_logits
from ctr_pipeline.errors import UserError
from ctr_pipeline.features import Layout, encode_ids, numeric_matrix
from ctr_pipeline.ranker import Ranker
from ctr_pipeline.spec import Spec

ROWS = 16_384
"""Rows that are scored at a time."""


OTHER_CODE = (
    "the code of today computes something else from the weights of {} than the code that they were trained with, so that neither "
    "its parts nor its gradients can be looked at"
)


class ReplayError(UserError):
    """Rows or sides that cannot be compared; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRows:
    """N impressions before vocabularies and transforms, as one side's pipeline has them.

    Attributes:
        values: N rows; a Float32 column for each number of a layout (``name``, or ``name[0]`` of a vector) and a column of
            texts, or of lists of texts, for each id column. Null is missing. Ids are hashed as the lake has them.
        impressions: N hashed ids of the impressions; null where they are not known.
        labels: [N, T] 1, 0, or -1 for a label that is not settled; in the order of ``tasks``.
        tasks: Names.
        ts: [N] times, microseconds since 1970 UTC.
        user: [N] code of the cluster for resampling; -1 = of its own.
        position: [N] slot; 0 = not logged.
        random: [N] whether the order was randomised.
    """

    values: pl.DataFrame
    impressions: pl.Series
    labels: NDArray[np.int8]
    tasks: tuple[str, ...]
    ts: NDArray[np.int64]
    user: NDArray[np.int64]
    position: NDArray[np.int16]
    random: NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ts)

    def take(self, rows: NDArray[np.intp]) -> "ReplayRows":
        """Some rows, in that order."""
        return ReplayRows(
            values=self.values[rows],
            impressions=self.impressions[rows],
            labels=self.labels[rows],
            tasks=self.tasks,
            ts=self.ts[rows],
            user=self.user[rows],
            position=self.position[rows],
            random=self.random[rows],
        )

    @property
    def clusters(self) -> NDArray[np.int64]:
        """[N] the codes in ``user``; of a row of its own one by its impression, so that it has one in all sets of rows."""
        known: pl.Expr = pl.col("impression").nchash.xxhash64(seed=0) & pl.lit(2**63 - 1, dtype=pl.UInt64)  # type: ignore[attr-defined]
        frame = pl.DataFrame({"impression": self.impressions}, schema={"impression": pl.String})
        own = frame.select(known.cast(pl.Int64).fill_null(-1)).to_series().to_numpy()
        return np.where(self.user < 0, own, self.user)

    def label(self, task: str) -> NDArray[np.int8]:
        """[N] labels of one task."""
        return self.labels[:, self.tasks.index(task)]

    def with_values(self, features: Collection[str], other: "ReplayRows") -> "ReplayRows":
        """The same rows with the values that ``other`` has of some features; row i of both is one impression.

        Args:
            features: Names as in the layout; of a vector all of its numbers.
            other: As many rows. A feature that it lacks is lacking afterwards, and so missing to a model.

        Raises:
            ReplayError: the numbers of rows differ.
        """
        if len(other) != len(self):
            raise ReplayError(f"values of {len(other)} rows for {len(self)} rows: match the rows first")
        kept = [name for name in self.values.columns if _feature(name) not in features]
        given = [name for name in other.values.columns if _feature(name) in features]
        return replace(self, values=pl.concat([self.values.select(kept), other.values.select(given)], how="horizontal"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSide:
    """A trained model with what it was trained with.

    Attributes:
        name: What a reader knows it by, such as its day or folder.
        spec: Its spec.
        layout: Its inputs, with their statistics.
        vocabulary: Columns feature, key and row.
        network: The network, in evaluation mode; None where the code of today cannot read its weights.
        calibrators: One for each task of the layout, of the model as it is served.
        exported: Computes uncalibrated logits [N, T] as the exported graph does, where the code of today makes something else
            of the weights; the model can then not be looked into. None where the code is that of the training.
    """

    name: str
    spec: Spec
    layout: Layout
    vocabulary: pl.DataFrame
    network: Ranker | None
    calibrators: tuple[Calibrator, ...]
    exported: "Callable[[Encoded], NDArray[np.float32]] | None" = None

    @property
    def ranker(self) -> Ranker:
        """The network, to be looked into.

        Raises:
            ReplayError: the code of today is not that which it was trained with.
        """
        if self.network is None or self.exported is not None:
            raise ReplayError(OTHER_CODE.format(self.name))
        return self.network

    @property
    def features(self) -> tuple[str, ...]:
        """Names of its inputs, numbers first; a list of events by its name alone."""
        parts = {name for one in self.layout.event_lists for name in (one.event, one.age)}
        names = [*(c.feature for c in self.layout.numeric), *(c.name for c in self.layout.ids)]
        return tuple(name for name in dict.fromkeys(names) if name not in parts)

    @property
    def groups(self) -> dict[str, str]:
        """By feature the section of the spec that declares it."""
        columns = [(c.feature, c.group) for c in self.layout.numeric] + [(c.name, c.group) for c in self.layout.ids]
        return {name: str(group) for name, group in columns if name in self.features}

    def together(self, features: Collection[str]) -> frozenset[str]:
        """``features``, and with one of the columns of a list of events its other ones."""
        lists = [{name for name in (one.name, one.event, one.age) if name} for one in self.layout.event_lists]
        return frozenset(features).union(*(own for own in lists if own & set(features)))

    def columns(self, feature: str) -> "tuple[list[int], list[int]]":
        """The columns of the numeric and of the id array that a feature takes, with a list of events its kinds and ages."""
        names = self.together([feature])
        numbers = [place for place, column in enumerate(self.layout.numeric) if column.feature in names]
        places = zip(self.layout.ids, self.layout.id_places, strict=True)
        return numbers, [at for column, own in places if column.name in names for at in range(own.start, own.stop)]

    def absent(self, rows: ReplayRows) -> tuple[str, ...]:
        """Features that the model reads and ``rows`` do not have."""
        there = {_feature(name) for name in rows.values.columns}
        return tuple(name for name in self.features if name not in there)

    def encode(self, rows: ReplayRows) -> "Encoded":
        """The rows as this model's inputs, through its own vocabulary; features that they lack are missing."""
        absent = set(self.absent(rows))
        numbers = [c.name for c in self.layout.numeric if c.name not in rows.values.columns]
        texts = [c for c in self.layout.ids if c.name in absent]
        # A frame without columns has no rows either, and these may lack all of the model's.
        counted = pl.DataFrame({"": np.arange(len(rows))})
        frame = pl.concat([counted, rows.values], how="horizontal").with_columns(
            *(pl.lit(None, dtype=pl.Float32).alias(name) for name in numbers),
            *(pl.lit(None, dtype=pl.String if c.pooled is None else pl.List(pl.String)).alias(c.name) for c in texts),
        )
        return Encoded(numeric_matrix(self.layout, frame), encode_ids(self.layout, self.vocabulary, frame))

    def raw_logits(self, encoded: "Encoded") -> NDArray[np.float32]:
        """[N, T] uncalibrated logits, as the model is served."""
        if self.exported is not None:
            return self.exported(encoded)
        network = self.ranker
        found = [np.zeros((0, len(self.layout.tasks)), np.float32)]
        with torch.no_grad():
            for at in range(0, len(encoded.ids), ROWS):
                numbers = torch.from_numpy(encoded.numeric[at : at + ROWS])
                found.append(network(numbers, torch.from_numpy(encoded.ids[at : at + ROWS])).numpy())
        return np.concatenate(found)

    def calibrated(self, encoded: "Encoded") -> NDArray[np.float64]:
        """[N, T] calibrated logits, as the model is served."""
        logits = self.raw_logits(encoded)
        return calibrated_logits(self.calibrators, self.layout.parents, logits, encoded.ids)

    def logits(self, rows: ReplayRows, tasks: Sequence[str] | None = None) -> NDArray[np.float64]:
        """[N, T] calibrated logits of ``rows``, of some ``tasks`` or of all."""
        found = self.calibrated(self.encode(rows))
        return found if tasks is None else found[:, [self.layout.tasks.index(task) for task in tasks]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as one model's inputs.

    Attributes:
        numeric: [N, D] raw numbers; NaN = missing.
        ids: [N, F] embedding rows of the model's own vocabulary.
    """

    numeric: NDArray[np.float32]
    ids: NDArray[np.int32]

    def with_columns(self, columns: "tuple[list[int], list[int]]", other: "Encoded") -> "Encoded":
        """The same with the values that ``other`` has in some columns of the numeric and of the id array."""
        numeric, ids = self.numeric.copy(), self.ids.copy()
        numeric[:, columns[0]] = other.numeric[:, columns[0]]
        ids[:, columns[1]] = other.ids[:, columns[1]]
        return Encoded(numeric, ids)

    def take(self, rows: NDArray[np.intp]) -> "Encoded":
        """Some rows, in that order."""
        return Encoded(self.numeric[rows], self.ids[rows])


def substituted(
    side: TrainedSide, rows: ReplayRows, features: Collection[str], values: ReplayRows
) -> NDArray[np.float64]:
    """[N, T] calibrated logits of a model on rows in which some features have the values of other rows.

    What is replaced is the value before vocabulary and transforms, so that the model reads the other value as it would in
    service: numbers in the unit of ``values``, categories by their text, lists and sequences as they are, missing as missing.

    Args:
        side: The model.
        rows: N rows as its own pipeline has them.
        features: Names of the features; of a list of events its name means its kinds and ages too.
        values: The same N impressions in the same order, as another pipeline has them.

    Raises:
        ReplayError: the numbers of rows differ.
    """
    return side.logits(rows.with_values(side.together(features), values))


def _feature(column: str) -> str:
    """The feature that a column of values belongs to."""
    return column.partition("[")[0]
