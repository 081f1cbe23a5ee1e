"""Training losses over the labels that are known. Importing the package alone needs no torch."""

from ctr_pipeline.losses.protocol import Loss
from ctr_pipeline.losses.registry import LossError, build_loss, register_loss

__all__ = ["Loss", "LossError", "build_loss", "register_loss"]
