"""What a module over a key's last events must be able to do, and the modules by the ``kind`` that a spec names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar, overload

from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.interactions import checked_module
from ctr_pipeline.ranker.shapes import Events, EventShape
from ctr_pipeline.spec.sequence_modules import SEQUENCES, SequenceSection, TargetAttention, Transformer
from ctr_pipeline.spec.variants import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn


SectionT = TypeVar("SectionT", bound=SequenceSection)


class SequenceModule(Protocol):
    """A torch module whose output is concatenated to the tower's, as that of an interaction is; the heads read all.

    Its events are those of G keys, each with C candidates: in training and for mixed rows G = B and C = 1, and when one
    user's candidates are scored G = 1. What depends on the events alone must be computed from [G, …] tensors, so that it
    is computed once. What stands after the end of a list must change nothing. It must treat each key and candidate by
    itself and export to ONNX with any G and C.
    """

    @property
    def out_width(self) -> int:
        """Width of the output, at least 1."""

    def forward(self, events: Events, target: Tensor) -> Tensor:
        """Combine events and candidates.

        Args:
            events: The last events of G keys.
            target: [G, C, d] embeddings of the candidates.

        Returns:
            [G, C, out_width].
        """


_MODULES: Registry[SequenceSection, SequenceModule] = Registry("sequence", SEQUENCES, RankerError)


@overload
def register_sequence(kind: str, build: Callable[[EventShape], SequenceModule]) -> None: ...


@overload
def register_sequence(
    kind: str, build: Callable[[EventShape, SectionT], SequenceModule], section: type[SectionT]
) -> None: ...


def register_sequence(
    kind: str, build: Callable[..., SequenceModule], section: type[SequenceSection] | None = None
) -> None:
    """Makes a module known under ``kind``, so that a spec can name it in ``model.sequences``.

    As :func:`~ctr_pipeline.ranker.interactions.register_interaction` does for interactions.

    Args:
        kind: Value of the key ``kind`` in the spec.
        build: Makes the module from the shape of its events and, if there is one, its section. It raises
            :class:`~ctr_pipeline.ranker.errors.RankerError` for a shape that does not suit it.
        section: Fields of the module in the spec; without it the module has no fields but ``kind`` and ``feature``.

    Raises:
        ValueError: ``kind`` is no name, belongs to another module, or is not that of ``section``.
    """
    _MODULES.add(kind, build, section)


def build_sequence(section: SequenceSection, shape: EventShape) -> nn.Module:
    """The module that a spec's section describes.

    Raises:
        RankerError: nothing in this process is registered under its kind, the shape does not suit it, or what is
            registered is no torch module with a positive ``out_width``.
    """
    return checked_module(f"sequence {section.kind!r}", _MODULES.build(section, shape))


def _target_attention(shape: EventShape, section: TargetAttention) -> SequenceModule:
    from ctr_pipeline.ranker.sequence.target_attention import ActivationUnit

    return ActivationUnit(shape, section)


def _transformer(shape: EventShape, section: Transformer) -> SequenceModule:
    from ctr_pipeline.ranker.sequence.transformer import EventTransformer

    return EventTransformer(shape, section)


register_sequence("target_attention", _target_attention, TargetAttention)
register_sequence("transformer", _transformer, Transformer)
