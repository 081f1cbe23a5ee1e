"""What the states of optimizers say of causes, beside those that they are meant to have."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.forms import form_of, is_apart

States = Mapping[str, Mapping[str, Any]]
"""By parameter, what its optimizer remembers of it: tensors and numbers by name."""

ROUNDING = 1e-3
"""Relative difference up to which a state in single precision is what a formula in double precision gives."""


def state_differences(own: States, expected: States, when: str, limit: float = 0.0) -> Iterator[Clue]:
    """Clues from the first state that is not the expected one.

    Args:
        own: The states as they are.
        expected: Those that are expected, of some parameters; empty where an optimizer has not yet made an update.
        when: When they are looked at, a clause.
        limit: Relative difference that counts as none.
    """
    for name, wanted in expected.items():
        found = own.get(name, {})
        for key in (*wanted, *(key for key in found if key not in wanted)):
            if (form := _apart(found.get(key), wanted.get(key), limit)) is not None:
                text = f"{key} of the optimizer of {name} {when} is not what is expected: {form}"
                yield Clue(cause="optimizer_state_differs", weight=0.93, text=text, location=name, separating=True)
                return


def _apart(own: Any, wanted: Any, limit: float) -> str | None:
    """In which form a value differs from the expected one; None where it does not."""
    if own is None or wanted is None:
        value = own if wanted is None else wanted
        what = f"there is one, of size {_size(value):.4g}" if wanted is None else "it is not there"
        return None if _size(value) == 0 else what
    one, other = (torch.as_tensor(value) for value in (own, wanted))
    if torch.equal(one, other) or not (one.is_floating_point() or one.ndim == 0):
        return None
    if limit and not is_apart(one, other, limit):
        return None
    if one.ndim == 0:
        return f"it is {float(one):.6g}, and {float(other):.6g} is expected"
    if not bool(other.any()):
        return f"it is {_size(one):.4g}, and 0 is expected"
    return form_of(one, other).text


def _size(value: Any) -> float:
    """The largest absolute value."""
    if not isinstance(value, Tensor | int | float):
        return 0.0
    tensor = torch.as_tensor(value).double()
    return float(tensor.abs().max()) if tensor.numel() else 0.0
