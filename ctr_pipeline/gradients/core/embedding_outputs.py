"""Observes what embedding tables give in a forward pass, so that a gradient can be traced to the id and the sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """A lookup of a forward pass.

    Attributes:
        name: Name of the table's weight.
        ids: [B, …] rows that were asked for.
        values: [B, …, width] the embeddings; their ``grad`` is there after the backward pass.
        padding: Row that stands for nothing and is not learnt; None where there is none.
    """

    name: str
    ids: Tensor
    values: Tensor
    padding: int | None


class EmbeddingObserver:
    """Observes every ``nn.Embedding`` of a model, on demand.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tables = [
            (f"{path}.weight" if path else "weight", module)
            for path, module in model.named_modules()
            if isinstance(module, nn.Embedding)
        ]

    @contextmanager
    def observe(self) -> Iterator[list[EmbeddingOutput]]:
        """Collects the lookups inside the block; nothing that the model computes is changed."""
        found: list[EmbeddingOutput] = []
        handles = [module.register_forward_hook(_noted(name, found)) for name, module in self._tables]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


def _noted(name: str, found: list[EmbeddingOutput]) -> Any:
    def note(module: nn.Embedding, given: tuple[Any, ...], output: Tensor) -> None:
        if given and output.requires_grad and output.numel():
            output.retain_grad()
            found.append(EmbeddingOutput(name, given[0], output, module.padding_idx))

    return note
