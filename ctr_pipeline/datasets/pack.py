"""Packs examples into arrays: by days, the same bytes for the same inputs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars_hash  # noqa: F401  (registers the expression namespace `nchash`)
from numpy.typing import NDArray

from ctr_pipeline.datasets.examples import build_examples, in_interval, rows_of, utc_day
from ctr_pipeline.datasets.examples_contract import check_examples, weight_column
from ctr_pipeline.datasets.label_ages import label_ages
from ctr_pipeline.datasets.new_values import NewValues, new_values
from ctr_pipeline.datasets.packed import (
    DatasetError,
    PackedDataset,
    PackedSplit,
    array_digests,
    create_split,
    release,
)
from ctr_pipeline.datasets.row_codes import cluster, code, key_column
from ctr_pipeline.datasets.split_parts import LEARNT, SplitBounds, iso
from ctr_pipeline.engines.base import FEW_ROWS
from ctr_pipeline.features import Group, Layout, embedding_rows, gather_lists, id_matrix, number_columns, numeric_matrix
from ctr_pipeline.labels import QualityTable, label_column, label_days, label_maturity, label_state_counts
from ctr_pipeline.propensity import PropensityTable
from ctr_pipeline.propensity.positions import PRODUCTION, RANDOM
from ctr_pipeline.spec import Spec, spec_hash

_ROW = "__row"
_LOGGED: tuple[Group, ...] = ("categorical", "contextual")
_MADE: tuple[Group, ...] = ("history",)
_PIECE = 1 << 20
_LARGEST_POSITION = np.iinfo(np.int16).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The lake tables that examples are made of, each at the version to be packed."""

    impressions: pl.LazyFrame
    labels: pl.LazyFrame
    history: pl.LazyFrame


def pack_dataset(
    directory: Path,
    spec: Spec,
    bounds: SplitBounds,
    tables: Tables,
    layout: Layout,
    vocabulary: pl.DataFrame,
    propensity: PropensityTable | None,
    versions: Mapping[str, int | str],
    quality: QualityTable | None = None,
    watermarks: Mapping[str, Mapping[str, int]] | None = None,
) -> PackedDataset:
    """Writes the examples of all parts to ``directory`` and opens them.

    Training rows are shuffled within each day by a hash of time, position and seed, so that another key of the hashes of
    ids makes the same order; rows that are alike in these are in order of their id; the others are in order of
    time and id. One day is in memory at a time, or several with few rows. The directory must be new or empty.

    Args:
        directory: Where to write.
        spec: Features, tasks, split, weighting and seed.
        bounds: The split (:func:`~ctr_pipeline.datasets.time_split.split_bounds`).
        tables: The tables, with at least the days of ``bounds``.
        layout: Layout of the inputs, fitted on the training interval of the same bounds.
        vocabulary: Vocabulary fitted with it.
        propensity: Position propensities; used with ``weighting: ips`` only.
        versions: Whatever identifies the inputs, such as table versions; recorded in the manifest.
        quality: Label quality; used with ``weighting: down_weight`` only.
        watermarks: By split and task, up to when outcomes had been delivered
            (:func:`~ctr_pipeline.datasets.time_split.split_watermarks`); negatives beyond have no label. None for no limit.

    Raises:
        DatasetError: the directory holds something, a split has no rows, or labels are older than their maturity.
    """
    if directory.exists() and any(directory.iterdir()):
        raise DatasetError(f"{directory}: not empty. Pack into a new folder, or remove this one first.")
    directory.mkdir(parents=True, exist_ok=True)
    summaries: dict[str, Any] = {}
    scales = np.ones(len(layout.tasks))
    weighting = spec.label_quality.weighting if spec.label_quality is not None and quality is not None else "none"
    doubts = quality if weighting == "down_weight" else None
    for name in bounds.splits:
        packer = _Packer(
            spec, bounds, tables, layout, vocabulary, propensity, doubts, name, (watermarks or {}).get(name)
        )
        split, summaries[name] = packer.write(directory)
        if name == "train":
            scales = _scales(split, layout)
        for piece in _pieces(len(split)):
            split.weights[piece] = split.weights[piece] / scales
        release(split)
    (directory / "layout.json").write_text(layout.to_json(), encoding="utf-8")
    vocabulary.write_parquet(directory / "vocabulary.parquet", compression="zstd", statistics=False)
    manifest = {
        "spec": spec_hash(spec),
        "seed": spec.seed,
        "bounds": bounds.describe(),
        "versions": dict(sorted(versions.items())),
        "weighting": spec.propensity.weighting if propensity is not None else "none",
        "label_weighting": weighting,
        **({"row_weighting": spec.impression.weight} if spec.impression.weight is not None else {}),
        "splits": summaries,
        "sha256": array_digests(directory),
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return PackedDataset.open(directory)


@dataclass(frozen=True, slots=True)
class _Packer:
    """Writes one split."""

    spec: Spec
    bounds: SplitBounds
    tables: Tables
    layout: Layout
    vocabulary: pl.DataFrame
    propensity: PropensityTable | None
    quality: QualityTable | None
    name: str
    watermarks: Mapping[str, int] | None

    @property
    def _as_of(self) -> int:
        return self.bounds.label_as_of(self.name)

    def _shown(self) -> pl.LazyFrame:
        return rows_of(self.bounds, self.name, self.tables.impressions)

    def write(self, directory: Path) -> tuple[PackedSplit, dict[str, Any]]:
        """The written split, and its entry in the manifest."""
        start, end = self.bounds.intervals[self.name]
        shown = self._shown()
        counts = shown.group_by("day").agg(pl.len()).sort("day").collect()
        rows = int(counts["len"].sum())
        if rows == 0:
            raise DatasetError(
                f"split {self.name}: no impressions from {iso(start)} to {iso(end)}. Materialise the impressions of "
                f"those days, or change the section `split`{self._few_keys()}."
            )
        labels = self._label_summary()
        split = create_split(directory, self.name, rows, self.layout, self._optional())
        learnt = self.name in LEARNT
        new = new_values(self.spec, self.layout, self.vocabulary, utc_day(start)) if learnt else ()
        at, rows_of = 0, dict(counts.iter_rows())
        for days in _together(rows_of):
            size = sum(rows_of[day] for day in days)
            self._write_days(split, slice(at, at + size), days, new)
            release(split)
            at += size
        reach = {"first": iso(int(split.ts.min())), "last": iso(int(split.ts.max()))}
        by_task, awaiting = {}, {}
        for column, task in enumerate(self.layout.tasks):
            states, own = labels["states"][task], split.labels[:, column]
            of, settled = sum(states.values()), int((own >= 0).sum())
            awaiting[task] = of - settled - states["CENSORED"]
            if split.elapsed is not None:
                of += int(((own < 0) & np.isfinite(split.elapsed[:, column])).sum())
            positives = int((own == 1).sum())
            first, last = self.bounds.interval(self.name, task)
            by_task[task] = {
                "start": iso(first),
                "end": iso(last),
                "rows": of,
                "settled": settled,
                "censored": of - settled,
                "positives": positives,
            }
        return split, {"rows": rows, **reach, "tasks": by_task, **labels, "awaiting_data": awaiting}

    def _optional(self) -> list[str]:
        """Arrays that this split has though not all datasets do."""
        ages = ["elapsed", "delay"] if self.bounds.open_tasks and self.name in LEARNT else []
        return [*(["group"] if self.spec.evaluation.group_by is not None else []), *ages]

    def _few_keys(self) -> str:
        drawn = self.bounds.drawn
        return "" if drawn is None else f" (it draws by {drawn.by}, of which there may be too few)"

    def _label_summary(self) -> dict[str, Any]:
        """States by task of the rows of its part, after a check that every row has labels as old as they need to be."""
        start, end = self.bounds.intervals[self.name]
        self._check_label_days(utc_day(start), utc_day(end - 1))
        states: dict[str, dict[str, int]] = {}
        together: dict[tuple[int, int], list[str]] = {}
        for task in self.layout.tasks:
            together.setdefault(self.bounds.interval(self.name, task), []).append(task)
        for (start, end), tasks in together.items():
            shown = in_interval(self._shown(), start, end)
            facts = in_interval(self.tables.labels, start, end)
            if self.bounds.drawn is not None or (self.name in LEARNT and self.bounds.has_rows_held_out):
                # The headers of days, which have no impression, are no facts.
                facts = facts.join(shown.select("day", "impression_id"), on=["day", "impression_id"], how="semi")
            lag = self.spec.split.ingest_lag
            states |= label_state_counts(shown, facts, self.spec.tasks, self._as_of, lag, tasks)
        belongs = {task: self.bounds.task_rows_of(self.name, task) for task in self.layout.tasks}
        mature = pl.sum_horizontal(own & (self._mature_ts(task) <= self._as_of) for task, own in belongs.items())
        counted = self._shown().select(mature=mature.sum(), pairs=pl.sum_horizontal(belongs.values()).sum()).collect()
        share = float(counted["mature"].item()) / float(counted["pairs"].item())
        return {"mature_share": share, "states": {task: states[task] for task in self.layout.tasks}}

    def _mature_ts(self, task: str) -> pl.Expr:
        maturity = label_maturity(self.spec.tasks, task) + self.spec.split.ingest_lag
        return pl.max_horizontal(pl.col("ts") + maturity, pl.col("ingest_ts"))

    def _check_label_days(self, first: date, last: date) -> None:
        """Refuses labels that are absent, older than the split needs, or of other impressions than these.

        An impression without facts is a negative once it is mature, so that it was labelled must be known.
        """
        within = pl.col("day").is_between(first, last)
        headers = label_days(self.tables.labels.filter(within))
        labelled = pl.col("day").replace_strict({day: header.as_of for day, header in headers.items()}, default=None)
        # Labels made after all windows of a day have closed are final, but for revisions.
        needed = pl.max_horizontal(self._mature_ts(task) for task in self.layout.tasks)
        arrived = pl.col("ingest_ts") <= self._as_of
        found = (
            self.tables.impressions.filter(within)
            .group_by("day")
            .agg(
                needed=needed.filter(arrived).max().clip(upper_bound=self._as_of),
                labelled=(pl.col("ingest_ts") <= labelled.cast(pl.Int64)).sum(),
            )
            .drop_nulls("needed")
            .sort("day")
        )
        again = "Materialise the asset `labels` of that day again, then pack."
        for day, instant, rows in found.collect().iter_rows():
            header = headers.get(day)
            if header is None:
                raise DatasetError(f"split {self.name}: labels of {day} are absent. {again}")
            if header.as_of < instant:
                raise DatasetError(
                    f"split {self.name}: labels of {day} were made as of {iso(header.as_of)}, before they matured and "
                    f"before {iso(self._as_of)}, the instant as of which this split is labelled. {again}"
                )
            if header.impressions != rows:
                raise DatasetError(
                    f"split {self.name}: labels of {day} are those of {header.impressions} impressions, but {rows} "
                    f"had arrived by then: the impressions were read again since. {again}"
                )

    def _write_days(self, split: PackedSplit, at: slice, days: Sequence[date], new: Sequence[NewValues]) -> None:
        start, end = self.bounds.intervals[self.name]
        today = pl.col("day").is_between(days[0], days[-1])
        shown = self._shown().filter(today)
        features = self.spec.features
        keys = {"day", "impression_id", "ts", "ingest_ts", *(f.key for f in features.history)}
        if self.quality is not None and self.quality.key is not None:
            keys.add(self.quality.key)
        # Shuffled once here, so that the trainer may read neighbours without reading rows of one hour only.
        moment = pl.format("{}:{}", "ts", pl.col("position").fill_null(0))
        shuffle: pl.Expr = moment.nchash.xxhash64(seed=self.spec.seed)  # type: ignore[attr-defined]
        # Encoded before they are sorted: numbers move faster than texts.
        inputs = {
            "numbers": [column for f in features.numeric for column in number_columns(f)],
            "ids": embedding_rows(self.layout, self.vocabulary, _LOGGED),
        }
        group = self.spec.evaluation.group_by
        encoded = shown.with_columns(cluster=cluster(self.spec)).select(
            pl.struct(sorted(keys)).alias("keys"),
            *(pl.struct(columns).alias(group) for group, columns in inputs.items() if columns),
            code("cluster").alias("user"),
            *([code(key_column(group, "group_key")).alias("group")] if group is not None else []),
            pl.col("position").fill_null(0).clip(0, _LARGEST_POSITION),
            "traffic",
            *(["weight"] if self.spec.impression.weight is not None else []),
            order=shuffle if self.name in LEARNT else pl.col("ts"),
        )
        key = pl.col("keys").struct
        rows = encoded.sort(key.field("day"), "order", key.field("impression_id")).collect()
        # Joined without the other columns: a join copies all that it carries.
        joined = build_examples(
            self.spec,
            rows.lazy().select(pl.col("keys").struct.unnest()).with_row_index(_ROW),
            in_interval(self.tables.labels, start, end).filter(today),
            self.tables.history.filter(today),
            self._as_of,
            self.watermarks,
        )
        examples = gather_lists(self.spec, joined).sort(_ROW).collect()
        if examples.height != at.stop - at.start:
            raise DatasetError(
                f"split {self.name}: {at.stop - at.start} impressions of {_span(days)} became {examples.height} "
                f"examples. An impression id of a day is not unique in `impressions`, `labels` or `history`."
            )
        # Beside a column that is always there: a frame without columns has no rows either.
        beside = examples.select("ts")
        made = [examples[name] for name, _ in features.history_numbers]
        numbers = beside.hstack([*(rows["numbers"].struct.unnest() if features.numeric else []), *made])
        split.numeric[at] = numeric_matrix(self.layout, numbers)
        made = examples.select(embedding_rows(self.layout, self.vocabulary, _MADE)).get_columns()
        ids = beside.hstack([*(rows["ids"].struct.unnest() if features.embedded else []), *made])
        split.ids[at] = id_matrix(self.layout, ids)
        for values in new:
            values.forget(split.ids[at], examples["day"].to_physical().to_numpy(), rows["order"].to_numpy())
        split.ts[at] = examples["ts"].to_numpy()
        split.user[at] = rows["user"].to_numpy()
        split.position[at] = rows["position"].to_numpy()
        if split.group is not None:
            split.group[at] = rows["group"].to_numpy()
        split.random[at] = (rows["traffic"] == RANDOM).fill_null(False).to_numpy()
        production = (rows["traffic"] == PRODUCTION).fill_null(False).to_numpy()
        for column, task in enumerate(self.layout.tasks):
            # A pair of a row and a task lies in one part: where this is not the task's, the row has no label of it.
            first, last = self.bounds.interval(self.name, task)
            own = pl.when(pl.col("ts").is_between(first, last, closed="left")).then(pl.col(label_column(task)))
            split.labels[at, column] = examples.select(own.fill_null(-1)).to_series().to_numpy()
            split.weights[at, column] = rows["weight"].to_numpy() if "weight" in rows.columns else 1.0
            if self.propensity is not None and self.spec.propensity.weighting == "ips":
                split.weights[at, column] *= self.propensity.raw_weights(task, split.position[at], production)
            if self.quality is not None and self.quality.key is not None:
                split.weights[at, column] *= self.quality.row_weights(self._chain(task), examples[self.quality.key])
        if split.elapsed is not None and split.delay is not None:
            shown = rows.lazy().select(pl.col("keys").struct.unnest()).with_row_index("row")
            stored = in_interval(self.tables.labels, start, end).filter(today)
            split.elapsed[at], split.delay[at] = np.nan, np.nan
            for task in self.bounds.open_tasks:
                column = self.layout.tasks.index(task)
                delivered = min(self._as_of, (self.watermarks or {}).get(task, self._as_of))
                settled = split.labels[at, column] >= 0
                ages = label_ages(shown, stored, task, settled, self.bounds, delivered)
                split.elapsed[at, column], split.delay[at, column] = ages
        self._check(examples, rows, numbers, split.weights[at])

    def _check(
        self, examples: pl.DataFrame, rows: pl.DataFrame, numbers: pl.DataFrame, weights: NDArray[np.float32]
    ) -> None:
        """Holds what was packed of some days to the contract of examples."""
        labels = (label_column(task) for task in self.layout.tasks)
        weighted = (pl.Series(weight_column(task), weights[:, n]) for n, task in enumerate(self.layout.tasks))
        frame = examples.select("day", "impression_id", *labels).hstack([rows["position"]]).hstack(numbers)
        packed = frame.hstack(list(weighted))
        try:
            check_examples(self.spec, packed)
        except DatasetError:
            # Ids are unique within a day: the days by themselves may keep the contract, and else the first is named.
            for part in packed.partition_by("day"):
                check_examples(self.spec, part)

    def _chain(self, task: str) -> list[str]:
        """The task and the steps above it."""
        parent = self.spec.task(task).parent
        return [task] if parent is None else [task, *self._chain(parent)]


def _scales(train: PackedSplit, layout: Layout) -> NDArray[np.float64]:
    """[T] mean weight of the settled training rows.

    Raises:
        DatasetError: every settled row of a task has weight 0, and nothing could be learned.
    """
    total, rows = np.zeros(train.labels.shape[1]), np.zeros(train.labels.shape[1], np.int64)
    for piece in _pieces(len(train)):
        settled = train.labels[piece] >= 0
        total += np.where(settled, train.weights[piece].astype(np.float64), 0.0).sum(axis=0)
        rows += settled.sum(axis=0)
    empty = [task for task, sum_, count in zip(layout.tasks, total, rows, strict=True) if count and not sum_]
    if empty:
        raise DatasetError(
            f"split train: all rows with a label of {', '.join(empty)} have weight 0. Correct the column that "
            "`impression.weight` names, or train on other days."
        )
    return np.where(rows > 0, total / np.maximum(rows, 1), 1.0)


def _together(rows: Mapping[date, int]) -> Iterator[list[date]]:
    """The days in groups of at most :data:`FEW_ROWS` rows, or of one day: what is done for a group costs the same."""
    group: list[date] = []
    held = 0
    for day in sorted(rows):
        if group and held + rows[day] > FEW_ROWS:
            yield group
            group, held = [], 0
        group.append(day)
        held += rows[day]
    if group:
        yield group


def _span(days: Sequence[date]) -> str:
    return str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _pieces(rows: int) -> Iterator[slice]:
    """All rows, some at a time: bounds memory."""
    return (slice(at, at + _PIECE) for at in range(0, rows, _PIECE))
