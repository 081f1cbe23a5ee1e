"""The impressions of a run's test days as requests that hold what the log holds, and the scores that training gave them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from ctr_pipeline.datasets.split_parts import SplitBounds
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.lake import Lake


@dataclass(frozen=True)
class SentRows:
    rows: pl.DataFrame
    """As the raw log has them, raw ids included, with ``ts`` in microseconds; in the order of the packed test rows."""
    features: list[str]
    """What the log holds of the model's inputs."""
    scores: NDArray[np.float64]
    """[N, T] calibrated probabilities that training found for them."""

    differing: frozenset[str]
    """Those in which the candidates of a request differ."""

    def page(self, at: NDArray[np.int64]) -> dict[str, Any]:
        """A request for the rows of one page: what they share is there once."""
        some = self.rows[at]
        return {
            "shared": {name: some[name][0] for name in (*self.features, "ts") if name not in self.differing},
            "candidates": {name: some[name].to_list() for name in self.differing},
        }

    def pages(self) -> list[NDArray[np.int64]]:
        """The rows of each page."""
        grouped = self.rows.with_row_index("at").group_by("session_id", "ts", maintain_order=True)
        return [np.array(at) for at in grouped.agg("at")["at"].to_list()]


def rows_of_test_days(data_root: Path, raw_log: Path) -> SentRows:
    deployment = Deployment.load(data_root)
    [manifest] = data_root.glob("training/*/bundle/manifest.json")
    paths = deployment.paths.retrain(manifest.parents[1].name)
    bounds = SplitBounds.from_json(read_json(paths.examples)["bounds"])
    first, end = bounds.intervals["test"]
    inside = pl.col("ts").is_between(first, end, closed="left"), pl.col("ingest_ts") <= bounds.label_as_of("test")
    stored = Lake(deployment.paths.lake).scan("impressions").filter(*inside)
    stored = stored.sort("ts", "impression_id").select("ts", "ad_id", "position").collect()
    ts = pl.col("ts").dt.timestamp("us")
    raw = pl.read_parquet(raw_log / "*.parquet")
    raw = raw.with_columns(ts=ts if raw["ts"].dtype != pl.Int64 else pl.col("ts"))
    rows = stored.join(raw, on=["ts", "ad_id", "position"], how="left", validate="1:1", maintain_order="left")
    features = [f.name for f in (*deployment.spec.features.numeric, *deployment.spec.features.embedded)]
    tasks = [task.name for task in deployment.spec.tasks]
    differing = {name for name in deployment.spec.serving.candidate_features or () if name in features}
    return SentRows(rows, features, expit(RetrainFiles(paths).calibrated("test", tasks)), frozenset(differing))
