"""What a retrain keeps of what it was made from, as plain values and frames: one side of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.features import Layout
from ctr_pipeline.spec import Spec


@dataclass(frozen=True, kw_only=True)
class RetrainState:
    """One retrain.

    Attributes:
        name: What a reader knows it by: its folder.
        day: Its day, YYYY-MM-DD.
        spec: The spec that it was made by.
        lineage: What provenance.json has: table versions, environment, files of the code, fingerprint of the key.
        layout: Its inputs with their statistics; None where they are gone.
        vocabulary: Columns feature, key, row, and, where it keeps them, count, first_day and last_day; None where it is gone.
        keys: A row for each impression from the first of training to the end of the test: impression_id, ts (microseconds),
            position, user, and whether it is in the test.
        rows: Those impressions, or a sample of them, with all features (history too) and a label column a task.
        events: Outcomes: impression_id, event, event_ts, ingest_ts; where the lake has them.
        quarantined: Rows that were kept out, by table and reason.
        result: What the trainer reported.
        curve: A mapping for each epoch.
        evaluation: Metrics by task and split.
        logits: [N, T] calibrated logits of the test rows, in order of time and id.
        labels: [N, T] their labels; -1 = not settled.
        users: [N] cluster of each test row.
        notes: What is gone, sentences.
    """

    name: str
    day: str
    spec: Spec
    lineage: Mapping[str, Any]
    layout: Layout | None
    vocabulary: pl.DataFrame | None
    keys: pl.DataFrame
    rows: pl.DataFrame
    events: pl.DataFrame
    quarantined: Mapping[str, int]
    result: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    logits: NDArray[np.float64]
    labels: NDArray[np.int8]
    users: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks."""
        return tuple(task.name for task in self.spec.tasks)

    @property
    def key_fingerprint(self) -> str:
        """Of the key of the hashes."""
        return str(self.lineage.get("key_fingerprint", ""))

    @cached_property
    def days(self) -> list[date]:
        """Days with impressions, ascending."""
        return sorted(self.keys.get_column("day").unique().to_list()) if self.keys.height else []

    @cached_property
    def numbers(self) -> list[str]:
        """Features of one number that its rows have."""
        single = set(self.spec.features.one_number)
        return [name for name in self.rows.columns if name in single and self.rows.schema[name].is_numeric()]

    @cached_property
    def history(self) -> dict[str, tuple[str, tuple[str | None, ...]]]:
        """By feature that the pipeline makes of the past: its key, and the tasks that it counts."""
        found: dict[str, tuple[str, tuple[str | None, ...]]] = {}
        for feature in self.spec.features.history:
            tasks = getattr(feature, "tasks", (getattr(feature, "task", None),))
            for name in self.spec.features.inputs:
                if name == feature.name or name.startswith(f"{feature.name}_"):
                    found[name] = (feature.key, tuple(tasks))
        return found

    @cached_property
    def categories(self) -> list[str]:
        """Features of texts, or of lists of them, that its rows have."""
        numbers = set(self.numbers)
        return [name for name in self.spec.features.inputs if name in self.rows.columns and name not in numbers]
