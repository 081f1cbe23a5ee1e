"""Trains the ranker: data loading, optimizers, checkpoints, several processes, and the process itself.

Light to import: the job description alone needs no torch.
"""

from ctr_pipeline.training.job_spec import MlflowTarget, TrainingError, TrainingJob

__all__ = ["MlflowTarget", "TrainingError", "TrainingJob"]
