"""Contracts of an untrained model: units that differ, units that live, and tables of one scale."""

from collections.abc import Mapping

from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.core.activations import Activation, dead_share

MOST_DEAD = 0.9
"""Share of a layer's units that may be dead in an untrained model; of a healthy one about none is, on enough rows."""
FEWEST_ROWS = 64
SCALE_FACTOR = 10.0


def differing_units_outcome(model: nn.Module) -> Outcome:
    """No layer has units with equal weights throughout: they would receive equal gradients and stay one unit."""
    name, checked = "differing_units", 0
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module.out_features < 2 or module.in_features < 1:
            continue
        weight = module.weight.detach()
        checked += 1
        # Zeros are a start of its own: of a linear part, or of one that begins without influence.
        if bool((weight == weight[:1]).all()) and bool((weight != 0).any()):
            message = (
                f"the {module.out_features} units of {path} start with equal weights: they receive equal gradients and stay "
                "one unit; draw initial weights at random"
            )
            return Outcome(
                name=name, verdict="failed", message=message, measured=float(module.out_features), limit=1.0, where=path
            )
    if not checked:
        return Outcome(name=name, verdict="not_measured", message="there is no linear layer with several units")
    return Outcome(name=name, verdict="passed", message=f"the units of {checked} layers differ")


def live_units_outcome(found: list[Activation]) -> Outcome:
    """Most units of each activation let a gradient through for some row."""
    name, worst, where = "live_units", -1.0, ""
    for activation in found:
        if activation.slope.ndim > 1 and activation.slope.shape[0] >= FEWEST_ROWS:
            share = float(dead_share(activation))
            if share > worst:
                worst, where = share, activation.name
    if worst < 0:
        message = f"no activation was seen on {FEWEST_ROWS} rows"
        return Outcome(name=name, verdict="not_measured", message=message)
    if worst > MOST_DEAD:
        message = (
            f"{worst:.0%} of the units of {where} are flat for every row of the first batch (at most {MOST_DEAD:.0%} expected): "
            "nothing below them can learn; look for biases far below 0, inputs that are not normalised, or too large weights"
        )
        return Outcome(name=name, verdict="failed", message=message, measured=worst, limit=MOST_DEAD, where=where)
    message = f"at most {worst:.0%} of a layer's units are flat for every row of the first batch"
    return Outcome(name=name, verdict="passed", message=message, measured=worst, limit=MOST_DEAD, where=where)


def table_scale_outcome(tables: Mapping[str, tuple[Tensor, float]], tensor: Mapping[str, str]) -> Outcome:
    """The rows of each feature's table start at the scale that they are meant to start with.

    Args:
        tables: By feature, rows [R, d] of its table and the root mean square that they are meant to have.
        tensor: By feature, the name of the table.
    """
    name, worst, where = "table_scale", 0.0, ""
    for feature, (rows, expected) in tables.items():
        ratio = float(rows.double().square().mean().sqrt()) / expected if rows.numel() else 0.0
        if not ratio <= worst:
            worst, where = ratio, feature
    if not tables:
        return Outcome(name=name, verdict="not_measured", message="there is no table")
    if not worst <= SCALE_FACTOR:
        message = (
            f"the embeddings of feature {where} start {worst:.3g} times as large as meant (at most {SCALE_FACTOR:g} expected): "
            "initialise a new table as the others; by default torch draws with a standard deviation of 1"
        )
        return Outcome(
            name=name, verdict="failed", message=message, measured=worst, limit=SCALE_FACTOR, where=tensor[where],
            feature=where,
        )  # fmt: skip
    return Outcome(
        name=name, verdict="passed", message="embeddings start at one scale", measured=worst, limit=SCALE_FACTOR
    )


def weight_outcome(weights: Tensor, labels: Tensor, tasks: tuple[str, ...]) -> Outcome:
    """No few rows decide a task's gradient: the effective share of its rows, (Σw)² / (n Σw²).

    Args:
        weights: [N, T] weights of a sample.
        labels: [N, T] below 0 where not known.
        tasks: [T] names.
    """
    name, worst, where, hard, warn = "effective_rows", 1.0, "", 0.01, 0.1
    for task, label in enumerate(tasks):
        own = weights[labels[:, task] >= 0, task].double()
        if len(own) >= 100 and float(own.sum()) > 0:
            share = float(own.sum() ** 2 / (len(own) * own.square().sum()))
            if share < worst:
                worst, where = share, label
    if worst < warn:
        message = (
            f"the weights of task {where} leave {worst:.2%} of its rows effective (error below {hard:.0%}, warning below "
            f"{warn:.0%}): a few rows decide the gradient; limit inverse propensities, or smooth them"
        )
        return Outcome(
            name=name, verdict="failed", message=message, measured=worst, limit=hard, where=where, hard=worst < hard
        )
    message = f"at least {worst:.0%} of the rows of each task are effective"
    return Outcome(name=name, verdict="passed", message=message, measured=worst, limit=hard, where=where)
