"""Time splits with a maturity gap, and packed arrays for training."""

from ctr_pipeline.datasets.packed import SPLITS, DatasetError, PackedDataset, PackedSplit, create_split, write_split

__all__ = ["SPLITS", "DatasetError", "PackedDataset", "PackedSplit", "create_split", "write_split"]
