"""The row of a table that stands for "nothing here" is zeros, and stays so."""

from collections.abc import Mapping

from torch import nn

from ctr_pipeline.gradients.contracts.kept_state import kept_state
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "padding_rows"


def check_padding_rows(setup: TrainingSetup) -> Outcome:
    """The padding row of each table is 0, before a step and after it."""
    found = padding_outcome(setup.model)
    if found.verdict != "passed":
        return found
    with kept_state(setup):
        setup.take_step()
        return padding_outcome(setup.model)


def padding_outcome(model: nn.Module, meant: Mapping[str, int] | None = None) -> Outcome:
    """Padding rows have no gradient and no value.

    Args:
        model: The model; each table with a padding row is looked at.
        meant: Padding rows by the name of their module, where the model knows of them in another way.
    """
    checked = 0
    for path, module in model.named_modules():
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
            continue
        row = (meant or {}).get(path, module.padding_idx)
        if row is None:
            continue
        checked += 1
        if module.padding_idx != row:
            message = (
                f"row {row} of {path} stands for the places after the end of a list and is learnt like any other: give the "
                f"table padding_idx={row}"
            )
            return Outcome(name=NAME, verdict="failed", message=message, measured=float(row), where=f"{path}.weight")
        largest = float(module.weight.detach()[row].abs().max())
        if largest != 0:
            message = (
                f"row {row} of {path}, which stands for the places after the end of a list, has a value of {largest:.3g} and "
                "not 0: short lists then count what is not there; initialise it with zeros"
            )
            return Outcome(
                name=NAME, verdict="failed", message=message, measured=largest, limit=0.0, where=f"{path}.weight"
            )
    if not checked:
        return Outcome(name=NAME, verdict="not_measured", message="no table has a padding row")
    return Outcome(name=NAME, verdict="passed", message=f"{checked} padding rows are 0 and learn nothing")
