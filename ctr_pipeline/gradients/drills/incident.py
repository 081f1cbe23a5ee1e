"""The incident: a new embedding with large values, and inverse propensities without a limit, under plain SGD.

A factorisation machine multiplies the new embedding with the others, so that the curvature of the loss grows with its square
and with the weights. While the learning rate warms up, the loss falls; once it is above what that curvature bears, norms grow
from about 5 by orders of magnitude within some steps.
"""

from dataclasses import replace

import numpy as np
import torch

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, register_fault
from ctr_pipeline.ranker.embeddings import FusedTable

RATE = 0.4


def _incident(training: DrilledTraining, rng: np.random.Generator) -> None:
    table = next(iter(training.model.embeddings.tables.values()))
    assert isinstance(table, FusedTable)
    starts = [start for _, start in table.owned()]
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    with torch.no_grad():
        # The rows of the first feature alone: the new one.
        table.table.weight[starts[0] : starts[1]].normal_(0.0, 5.0, generator=generator)
    for place, optimizer in enumerate(training.optimizers):
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        training.optimizers[place] = torch.optim.SGD(held, lr=RATE)


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
        named=("unnormalised_embedding_and_unclipped_weights",),
        inject=_incident,
        rows=_weights,
        training={
            "learning_rate": RATE,
            "embedding_learning_rate": RATE,
            "clip_norm": 1e30,
            "warmup_fraction": 0.65,
            "batch_size": 120,
        },
        model={"hidden": [], "interactions": [{"kind": "factorisation_machine"}]},
    )
)
