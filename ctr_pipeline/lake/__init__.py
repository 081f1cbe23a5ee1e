"""The pipeline's tables: Delta Lake over Parquet, partitioned by day, one commit a write."""

from ctr_pipeline.lake.tables import STORED_TYPES, Lake, LakeError, refuse_other_days

__all__ = ["STORED_TYPES", "Lake", "LakeError", "refuse_other_days"]
