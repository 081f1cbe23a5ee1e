"""The registered modules of the ranker: their fields, their parameters on a reference shape, and what they cost."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.heads import HeadShape, build_head
from ctr_pipeline.ranker.interactions import build_interaction
from ctr_pipeline.ranker.sequence import build_sequence
from ctr_pipeline.ranker.shapes import Events, EventShape, FieldGroup, InputShape
from ctr_pipeline.spec.heads import HEADS
from ctr_pipeline.spec.interactions import INTERACTIONS
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.sequence_modules import SEQUENCES
from ctr_pipeline.spec.variants import Variant, Variants

REFERENCE = InputShape(100, (FieldGroup(16, tuple(f"field_{n}" for n in range(30))),))
"""The inputs on which interactions are measured: 100 numbers and 30 embeddings of width 16, 580 values."""

REFERENCE_EVENTS = EventShape(50, 16, 4)
"""What sequences are measured on: 50 places, embeddings of width 16."""

REFERENCE_HEADS = HeadShape(128, ("click", "cart", "buy"), (-1, 0, 1), (False,) * 3, Model())
"""What heads are measured on: 128 hidden units, a funnel of three tasks."""

ROWS = 2048
"""Rows of a batch that is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCost:
    """One registered module.

    Attributes:
        section: Where a spec names it: ``model.interactions``, ``model.sequences`` or ``model.multi_task``.
        kind: Its name there.
        meaning: What it is, in a line.
        fields: Its fields, each with default and meaning.
        parameters: Number of its parameters on the reference shape.
        training: Processor seconds a million rows of a training step, forward and backward, on one thread.
        scoring: Processor seconds a million rows of scoring alone.
    """

    section: str
    kind: str
    meaning: str
    fields: list[dict[str, Any]]
    parameters: int
    training: float
    scoring: float


def module_costs(kinds: Callable[[str], bool] = lambda _: True, repetitions: int = 5) -> Iterator[ModuleCost]:
    """Builds and measures each registered module with the defaults of its section, in the order of their names.

    The threads of torch are set to one meanwhile. What else the machine does is not counted, but shares its caches.

    Args:
        kinds: Whether a kind is wanted.
        repetitions: Batches that are measured; the fastest counts.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            numbers, fields = torch.randn(ROWS, REFERENCE.numbers), _fields()
            for section in _sections(INTERACTIONS, kinds):
                module = build_interaction(section, REFERENCE)
                yield _measured("model.interactions", section, module, (numbers, fields), fields, repetitions)
            for listed in _sections(SEQUENCES, kinds):
                events, target = _events()
                built = build_sequence(listed, REFERENCE_EVENTS)
                learnt = (events.items, target)
                yield _measured("model.sequences", listed, built, (events, target), learnt, repetitions)
            hidden = torch.randn(ROWS, REFERENCE_HEADS.width, requires_grad=True)
            for head in _sections(HEADS, kinds):
                built = build_head(head, REFERENCE_HEADS)
                yield _measured("model.multi_task", head, built, (hidden,), (hidden,), repetitions)
    finally:
        torch.set_num_threads(threads)


def _fields() -> tuple[Tensor, ...]:
    return tuple(torch.randn(ROWS, len(group.columns), group.width, requires_grad=True) for group in REFERENCE.groups)


def _events() -> tuple[Events, Tensor]:
    """Events of as many keys as rows, half of the places of a list taken on average, and one candidate each."""
    length, width = REFERENCE_EVENTS.length, REFERENCE_EVENTS.width
    there = torch.arange(length) < torch.randint(0, length + 1, (ROWS, 1))
    items = torch.randn(ROWS, length, width, requires_grad=True)
    kinds = torch.randint(0, REFERENCE_EVENTS.kinds, (ROWS, length))
    ages = torch.rand(ROWS, length) * 1e6
    return Events(items, kinds, ages, there), torch.randn(ROWS, 1, width, requires_grad=True)


def _sections(variants: Variants[Any], kinds: Callable[[str], bool]) -> Iterator[Any]:
    for kind, section in sorted(variants.sections.items()):
        if kinds(kind):
            yield section()


def _measured(
    where: str,
    section: Variant,
    module: nn.Module,
    inputs: tuple[Any, ...],
    learnt: tuple[Tensor, ...],
    repetitions: int,
) -> ModuleCost:
    parameters = list(module.parameters())

    def train() -> None:
        module(*inputs).sum().backward()
        for value in (*parameters, *learnt):
            value.grad = None

    def score() -> None:
        with torch.no_grad():
            module(*inputs)

    module.train()
    training = _seconds(train, repetitions)
    module.eval()
    return ModuleCost(
        section=where,
        kind=section.kind,
        meaning=(type(section).__doc__ or "").strip().splitlines()[0] if type(section).__doc__ else "",
        fields=list(_described(type(section))),
        parameters=sum(parameter.numel() for parameter in parameters),
        training=training,
        scoring=_seconds(score, repetitions),
    )


def _described(section: type[Variant]) -> Iterator[dict[str, Any]]:
    for name, field in section.model_fields.items():
        if name != "kind":
            yield {"name": name, "default": field.default, "meaning": field.description or ""}


def _seconds(call: Callable[[], None], repetitions: int) -> float:
    """Processor seconds a million rows: the fastest of the repetitions, after one that is not counted."""
    call()
    found = []
    for _ in range(repetitions):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found) / ROWS * 1e6
