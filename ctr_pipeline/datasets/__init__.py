"""Time splits with a maturity gap, and packed arrays for training."""

from ctr_pipeline.datasets.examples import build_examples, fit_propensity, fit_vocabulary
from ctr_pipeline.datasets.pack import Tables, pack_dataset
from ctr_pipeline.datasets.packed import SPLITS, DatasetError, PackedDataset, PackedSplit, create_split, write_split
from ctr_pipeline.datasets.quality_counts import fit_label_quality
from ctr_pipeline.datasets.time_split import SplitBounds, split_bounds, split_watermarks

__all__ = [
    "SPLITS",
    "DatasetError",
    "PackedDataset",
    "PackedSplit",
    "SplitBounds",
    "Tables",
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
