"""What the tasks of a ranker share."""

from torch import nn

from ctr_pipeline.ranker.model import Ranker

OF_EACH_TASK = ("head", "wide", "position")
"""Parts with weights for each task apart."""


def shared_parameters(model: Ranker) -> dict[str, nn.Parameter]:
    """The dense parameters that several tasks read, by name; empty where there is one task.

    Without the embedding tables, whose gradients are sparse, and without what each task has of its own in
    ``model.multi_task``.
    """
    if len(model.tasks) < 2:
        return {}
    tables = {id(module.weight) for module in model.modules() if getattr(module, "sparse", False)}
    own = {id(p) for part in (model.multi_task.own if model.multi_task is not None else ()) for p in part.parameters()}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.split(".")[0] not in OF_EACH_TASK and id(parameter) not in tables | own
    }
