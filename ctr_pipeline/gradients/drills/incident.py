"""The incident: a new embedding with large values, and inverse propensities without a limit, under plain SGD."""

from dataclasses import replace

import numpy as np
import torch

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, fault_named, register_fault


def _incident(training: DrilledTraining, rng: np.random.Generator) -> None:
    fault_named("new_embedding_huge").inject(training, rng)
    for place, optimizer in enumerate(training.optimizers):
        plain = torch.optim.SGD(optimizer.param_groups[0]["params"], lr=0.4)
        for group in optimizer.param_groups[1:]:
            plain.add_param_group({"params": group["params"], "lr": 0.4})
        training.optimizers[place] = plain


def _weights(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    return replace(rows, weights=(1 / rng.uniform(1 / 30, 1.0, rows.weights.shape)).astype(np.float32))


register_fault(
    Fault(
        name="refactor_incident",
        family="incident",
        symptom="the loss falls for some steps, gradient norms grow by orders of magnitude, then values are not finite",
        cause="a new embedding starts with a standard deviation of 5, and unlimited inverse propensities multiply its gradient "
        "under SGD with a rate of .4: either alone is survived",
        fix="start the embedding near 0 and limit the weights; clipping alone hides it",
        inject=_incident,
        rows=_weights,
        training={"learning_rate": 0.4, "embedding_learning_rate": 0.4, "clip_norm": 1e30},
        model={"interactions": [{"kind": "factorisation_machine"}]},
    )
)
