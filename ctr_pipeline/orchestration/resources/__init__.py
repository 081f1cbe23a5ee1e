"""Dagster resources: the lake, MLflow, the trainer process, the notifier."""

from ctr_pipeline.orchestration.resources.lake import LakeResource
from ctr_pipeline.orchestration.resources.notifier import NotifierResource
from ctr_pipeline.orchestration.resources.tracking import TrackingResource
from ctr_pipeline.orchestration.resources.trainer import TrainerResource

__all__ = ["LakeResource", "NotifierResource", "TrackingResource", "TrainerResource"]
