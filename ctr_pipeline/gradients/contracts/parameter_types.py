"""Weights are stored in a type that holds small updates."""

import torch
from torch import nn

from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "parameter_types"
NARROW = (torch.float16, torch.bfloat16)


def check_parameter_types(setup: TrainingSetup) -> Outcome:
    """Trainable parameters are stored in at least 32 bits."""
    return parameter_type_outcome(setup.model)


def parameter_type_outcome(model: nn.Module) -> Outcome:
    """No trainable parameter is stored in 16 bits: updates below half a unit in the last place would be lost, and float16
    ends at 65,504. Mixed precision computes in 16 bits and stores in 32.
    """
    narrow = [(name, p.dtype) for name, p in model.named_parameters() if p.requires_grad and p.dtype in NARROW]
    if narrow:
        name, dtype = narrow[0]
        kind = str(dtype).removeprefix("torch.")
        more = f" and {len(narrow) - 1} more" if len(narrow) > 1 else ""
        message = (
            f"{name}{more} is stored as {kind}, in which an update below 1/{2048 if dtype == torch.float16 else 256} of a "
            "weight is lost: store weights as float32, and compute in 16 bits under autocast"
        )
        return Outcome(name=NAME, verdict="failed", message=message, measured=float(len(narrow)), limit=0.0, where=name)
    return Outcome(
        name=NAME, verdict="passed", message="weights are stored in at least 32 bits", measured=0.0, limit=0.0
    )
