"""What an update may change, as it was before: enough to take one update back to the last bit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients import Update
from ctr_pipeline.training.optimizers import writes_finite_values


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a tensor, and their values before the update."""

    tensor: Tensor
    rows: Tensor
    before: Tensor


@dataclass(frozen=True, slots=True)
class WrongValue:
    """A value that is not finite after an update.

    Attributes:
        name: Name of the parameter.
        row: First index into it.
        value: What was written.
    """

    name: str
    row: int
    value: float


class LastGood:
    """The parameters and the state of their optimizers at the start of a step.

    Dense parameters are copied whole into buffers that are made once. Of a parameter with a sparse gradient only the rows
    of that gradient are copied: an optimizer for sparse gradients touches no others. The cost is that of one more read and
    write of what the update itself reads and writes.

    Args:
        named: All parameters by name.
        optimizers: Their optimizers.
    """

    always: bool
    """Whether each update is kept, also one whose optimizers can write finite values only."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.always = False
        self._names = {parameter: name for name, parameter in named}
        self._optimizers = optimizers
        self._states: list[tuple[int, Any]] = []
        self._of_state: dict[nn.Parameter, list[Tensor]] = {}
        self._dense: list[nn.Parameter] = []
        self._tensors: list[Tensor] = []
        self._buffers: list[Tensor] = []
        self._sparse: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._rows: list[_Rows] = []
        self._plain: list[tuple[dict[str, Any], str]] = []
        self._plain_before: list[Any] = []
        self._without_state: list[tuple[torch.optim.Optimizer, nn.Parameter]] = []
        self._changes: list[Update] | None = None

    def is_needed(self) -> bool:
        """Whether an update could write a value that is not finite from gradients whose norm is finite."""
        if self.always:
            return True
        for optimizer in self._optimizers:  # noqa: SIM110 - asked at each step, where a generator costs more than what it asks
            if not writes_finite_values(optimizer):
                return True
        return False

    @torch.no_grad()
    def keep(self) -> None:
        """Call between the backward pass and the update: parameters without a gradient are not updated."""
        dense: list[nn.Parameter] = []
        self._changes = None
        self._sparse, self._rows = [], []
        self._read_states()
        self._plain_before = [state[key] for state, key in self._plain]
        for parameter in self._names:
            gradient = parameter.grad
            if gradient is None:
                continue
            if not gradient.is_sparse:
                dense.append(parameter)
                continue
            rows = gradient.coalesce().indices()[0]
            before = parameter.index_select(0, rows)
            self._sparse.append((parameter, rows, before))
            self._rows.append(_Rows(parameter, rows, before))
            for tensor in self._of_state.get(parameter, ()):
                by_row = tensor.ndim > 0 and tensor.shape[0] == parameter.shape[0]
                at = rows if by_row else torch.arange(len(tensor) if tensor.ndim else 1, device=tensor.device)
                self._rows.append(_Rows(tensor, at, (tensor if tensor.ndim else tensor[None]).index_select(0, at)))
        tensors = [*dense, *(tensor for parameter in dense for tensor in self._of_state.get(parameter, ()))]
        if len(tensors) != len(self._tensors) or any(a is not b for a, b in zip(tensors, self._tensors, strict=True)):
            self._buffers = [torch.empty_like(tensor) for tensor in tensors]
        self._dense, self._tensors = dense, tensors
        if tensors:
            torch._foreach_copy_(self._buffers, [tensor.detach() for tensor in tensors])

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back as :meth:`keep` found it."""
        if self._tensors:
            torch._foreach_copy_([tensor.detach() for tensor in self._tensors], self._buffers)
        for part in self._rows:
            (part.tensor if part.tensor.ndim else part.tensor.unsqueeze(0)).detach().index_copy_(
                0, part.rows, part.before
            )
        for (state, key), value in zip(self._plain, self._plain_before, strict=True):
            state[key] = value
        for optimizer, parameter in self._without_state:
            # The first update of a parameter makes its state.
            optimizer.state.pop(parameter, None)

    def updates(self) -> list[Update]:
        """Each changed weight matrix before and after the update; of an embedding table, the rows that were touched."""
        return [change for change in self._changed() if change.before.ndim >= 2]

    def wrong_value(self) -> WrongValue | None:
        """The first value that the update wrote and that is not finite; one wait for the device."""
        # What was there before is finite. So a value that is not makes the change's norm infinite or NaN; so may a change
        # that is finite and beyond the range of squares.
        if all(change.norms is not None and math.isfinite(change.norms[1]) for change in self._changed()):
            return None
        for change in self._changed():
            finite = torch.isfinite(change.after)
            if not bool(finite.all()):
                at = [int(index) for index in (~finite).nonzero()[0]]
                row = at[0] if change.rows is None else int(change.rows[at[0]])
                return WrongValue(change.name, row if at else 0, float(change.after[tuple(at)]))
        return None

    @torch.no_grad()
    def _changed(self) -> list[Update]:
        """Each parameter before and after the update, measured once."""
        if self._changes is not None:
            return self._changes
        dense = zip(self._dense, self._buffers, strict=False)
        found = [Update(self._names[parameter], before, parameter.detach()) for parameter, before in dense]
        for parameter, rows, before in self._sparse:
            found.append(Update(self._names[parameter], before, parameter.detach().index_select(0, rows), rows))
        found = [change for change in found if change.before.numel()]
        if found:
            earlier = [change.before for change in found]
            moved = torch._foreach_norm(torch._foreach_sub([change.after for change in found], earlier))
            host = torch.stack([*torch._foreach_norm(earlier), *moved]).tolist()
            norms = zip(host[: len(found)], host[len(found) :], strict=True)
            found = [replace(change, norms=own) for change, own in zip(found, norms, strict=True)]
        self._changes = found
        return found

    def _read_states(self) -> None:
        """Tensors of the optimizers' states by parameter; read again when a state was made or loaded."""
        states = [(len(o.state), next(iter(o.state.values()), None)) for o in self._optimizers]
        if len(states) == len(self._states) and all(
            count == known and first is before
            for (count, first), (known, before) in zip(states, self._states, strict=True)
        ):
            return
        self._states = states
        self._of_state, self._plain, self._without_state = {}, [], []
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state.get(parameter)
                    if not state:
                        self._without_state.append((optimizer, parameter))
                        continue
                    self._of_state[parameter] = [value for value in state.values() if isinstance(value, Tensor)]
                    # Some optimizers count their steps in a plain number.
                    self._plain += [(state, key) for key, value in state.items() if not isinstance(value, Tensor)]
