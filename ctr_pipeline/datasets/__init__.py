"""Time splits with a maturity gap, and packed arrays for training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctr_pipeline.datasets.packed import SPLITS, DatasetError, PackedDataset, PackedSplit, create_split, write_split

if TYPE_CHECKING:
    from ctr_pipeline.datasets.examples import build_examples, fit_propensity, fit_vocabulary
    from ctr_pipeline.datasets.pack import Tables, pack_dataset
    from ctr_pipeline.datasets.quality_counts import fit_label_quality
    from ctr_pipeline.datasets.split_parts import SplitBounds, TaskBounds
    from ctr_pipeline.datasets.time_split import split_bounds, split_watermarks

__all__ = [
    "SPLITS",
    "DatasetError",
    "PackedDataset",
    "PackedSplit",
    "SplitBounds",
    "Tables",
    "TaskBounds",
    "build_examples",
    "create_split",
    "fit_label_quality",
    "fit_propensity",
    "fit_vocabulary",
    "pack_dataset",
    "split_bounds",
    "split_watermarks",
    "write_split",
]

_FROM_TABLES = {
    "SplitBounds": "split_parts",
    "Tables": "pack",
    "TaskBounds": "split_parts",
    "build_examples": "examples",
    "fit_label_quality": "quality_counts",
    "fit_propensity": "examples",
    "fit_vocabulary": "examples",
    "pack_dataset": "pack",
    "split_bounds": "time_split",
    "split_watermarks": "time_split",
}


def __getattr__(name: str) -> Any:
    # The trainer and the scorer open packed arrays: what makes them of tables takes a second to load.
    if name not in _FROM_TABLES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM_TABLES[name]}"), name)
