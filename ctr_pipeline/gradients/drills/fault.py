"""What a fault is, and the registry of all of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.errors import UserError
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.ranker.model import Ranker


class DrilledTraining(Protocol):
    """What a fault may change of a training that is built and has not begun.

    Attributes:
        model: The ranker.
        optimizers: Those that update it.
        objectives: The tasks' objectives.
        precision: Arithmetic and loss scaler.
        train: The rows.
    """

    model: Ranker
    optimizers: list[torch.optim.Optimizer]
    objectives: Any
    precision: Any
    train: PackedSplit


class DrillError(UserError):
    """A drill that does not exist."""


Half = Literal["development", "scored"]


def _nothing(_: DrilledTraining, __: np.random.Generator) -> None:
    """Leaves the training as it is."""


def _same(rows: PackedSplit, _: np.random.Generator) -> PackedSplit:
    return rows


def _as_split(splits: Mapping[str, PackedSplit], _: np.random.Generator) -> Mapping[str, PackedSplit]:
    return splits


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that is put into a real training.

    Attributes:
        name: Stable name, in snake case.
        family: Faults that one mistake makes; rules are written against whole families or none of one.
        half: Whether rules may be written against the family, or it is only scored.
        symptom: What a person sees, a sentence.
        cause: What is wrong, a sentence.
        fix: The smallest change that cures it, a sentence.
        inject: Changes the built training; draws from the generator what the seed decides.
        rows: Changes the training rows before the training is built.
        other_rows: Changes the rows of the validation and of the test.
        splits: Changes how the rows, changed as above, are split: given and returned by the split's name.
        batches: Changes the batches of an epoch on their way to the step: given those that are read, and the steps taken
            before the first of them.
        training: Settings of the spec's ``training`` section.
        model: Settings of its ``model`` section.
        task_weights: Weights of the tasks' losses.
        with_list: Whether the rows have a list of ids too.
        named: Names of causes that are right for it; its own name when empty.
        located: Names of features, parameters and tasks that are right places for it; empty where it has none.
    """

    name: str
    family: str
    half: Half = "development"
    symptom: str
    cause: str
    fix: str
    inject: Callable[[DrilledTraining, np.random.Generator], None] = _nothing
    rows: Callable[[PackedSplit, np.random.Generator], PackedSplit] = _same
    other_rows: Callable[[PackedSplit, np.random.Generator], PackedSplit] = _same
    splits: Callable[[Mapping[str, PackedSplit], np.random.Generator], Mapping[str, PackedSplit]] = _as_split
    batches: Callable[[Iterator[BatchView], int, np.random.Generator], Iterator[BatchView]] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    task_weights: Mapping[str, float] = field(default_factory=dict)
    with_list: bool = False
    named: tuple[str, ...] = ()
    located: tuple[str, ...] = ()

    @property
    def right_names(self) -> tuple[str, ...]:
        """Names of causes that are right for it."""
        return self.named or (self.name,)


_FAULTS: dict[str, Fault] = {}


def register_fault(fault: Fault) -> None:
    """Adds a fault.

    Raises:
        ValueError: its name is taken, or its family is in the other half.
    """
    if fault.name in _FAULTS:
        raise ValueError(f"there is a fault {fault.name!r} already")
    if any(known.family == fault.family and known.half != fault.half for known in _FAULTS.values()):
        raise ValueError(f"family {fault.family!r} is in both halves: a family is split by none")
    _FAULTS[fault.name] = fault


def registered_faults() -> tuple[Fault, ...]:
    """All faults, by name."""
    return tuple(_FAULTS[name] for name in sorted(_FAULTS))


def fault_named(name: str) -> Fault:
    """The fault ``name``.

    Raises:
        DrillError: there is none.
    """
    if name not in _FAULTS:
        raise DrillError(f"there is no fault {name!r}; known: {', '.join(sorted(_FAULTS))}")
    return _FAULTS[name]


def table_of(training: DrilledTraining) -> torch.Tensor:
    """The first embedding table."""
    return next(module.weight for module in training.model.modules() if isinstance(module, nn.Embedding))
