"""Training losses, and what each task's labels mean to training. Importing the package alone needs no torch."""

from ctr_pipeline.losses.protocol import Loss, Objective
from ctr_pipeline.losses.registry import LossError, build_loss, build_objective, register_loss, register_objective

__all__ = ["Loss", "LossError", "Objective", "build_loss", "build_objective", "register_loss", "register_objective"]
