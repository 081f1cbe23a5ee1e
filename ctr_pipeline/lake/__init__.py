"""The pipeline's tables: Delta Lake over Parquet, partitioned by day, one commit a write."""

from ctr_pipeline.lake.tables import Lake, LakeError

__all__ = ["Lake", "LakeError"]
