"""What an interaction must be able to do, and the interactions by the ``kind`` that a spec names."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TypeVar, overload

from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.shapes import InputShape
from ctr_pipeline.spec.interactions import INTERACTIONS, InteractionSection
from ctr_pipeline.spec.variants import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

SectionT = TypeVar("SectionT", bound=InteractionSection)


class Interaction(Protocol):
    """A torch module beside the tower: its output is concatenated to the tower's, and the heads read both.

    It must treat each row by itself and export to ONNX with any number of rows. It runs where the tower runs: under
    autocast when training is in 16 bits, so that its matrix products are fast; its inputs are float32, and sums and
    products element by element stay so. A module that needs more disables autocast inside.
    """

    @property
    def out_width(self) -> int:
        """Width of the output, at least 1."""

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        """Combine the inputs of B rows.

        Args:
            numbers: [B, D] encoded numbers.
            fields: [B, F, d] embeddings for each group of the :class:`InputShape` that the module was built with.

        Returns:
            [B, out_width].
        """


_INTERACTIONS: Registry[InteractionSection, Interaction] = Registry("interaction", INTERACTIONS, RankerError)


@overload
def register_interaction(kind: str, build: Callable[[InputShape], Interaction]) -> None: ...


@overload
def register_interaction(
    kind: str, build: Callable[[InputShape, SectionT], Interaction], section: type[SectionT]
) -> None: ...


def register_interaction(
    kind: str, build: Callable[..., Interaction], section: type[InteractionSection] | None = None
) -> None:
    """Makes an interaction known under ``kind``, so that a spec can name it in ``model.interactions``.

    A package that is installed beside this one registers its modules in a module that it names in the entry point group
    ``ctr_pipeline.extensions``. Such a module is imported by every process: import torch inside ``build`` to keep the
    start of those that do not train short.

    Args:
        kind: Value of the key ``kind`` in the spec.
        build: Makes the module from the shape of its inputs and, if there is one, its section. A class will do. It
            raises :class:`~ctr_pipeline.ranker.errors.RankerError` for a shape that does not suit it.
        section: Fields of the interaction in the spec; without it the interaction has no fields but ``kind``.

    Raises:
        ValueError: ``kind`` is no name, belongs to another interaction, or is not that of ``section``.
    """
    _INTERACTIONS.add(kind, build, section)


def build_interaction(section: InteractionSection, shape: InputShape) -> nn.Module:
    """The module that a spec's section describes.

    Raises:
        RankerError: nothing in this process is registered under its kind, the shape does not suit it, or what is
            registered is no torch module with a positive ``out_width``.
    """
    return checked_module(f"interaction {section.kind!r}", _INTERACTIONS.build(section, shape))


def checked_module(what: str, built: object) -> nn.Module:
    """What was registered and built, if it is a module whose output has a width.

    Args:
        what: What it is called in a message.
        built: The object.

    Raises:
        RankerError: it is no torch module, or its ``out_width`` is no whole number above 0.
    """
    from torch import nn

    if not isinstance(built, nn.Module):
        raise RankerError(
            f"{what}: a torch.nn.Module expected, found a {type(built).__name__}. Correct the class or function that is "
            "registered."
        )
    out_width(built)
    return built


def with_dropout(section: InteractionSection, dropout: float | None) -> InteractionSection:
    """The section with the ranker's dropout in the place of one of its own that is absent."""
    if "dropout" in type(section).model_fields and getattr(section, "dropout", None) is None:
        return section.model_copy(update={"dropout": dropout})
    return section


def out_width(module: nn.Module) -> int:
    """Width of an interaction's output.

    Raises:
        RankerError: its ``out_width`` is no whole number above 0.
    """
    width = getattr(module, "out_width", None)
    if not isinstance(width, int) or width < 1:
        raise RankerError(
            f"interaction {type(module).__name__}: an `out_width` of at least 1 expected, found {width!r}. Set it in "
            "the class to the width of what `forward` returns."
        )
    return width


def _in_its_file(kind: str) -> Callable[[InputShape, InteractionSection], Interaction]:
    """The builder of one of this project's interactions: ``build`` in the file of this folder that is called like it."""

    def build(shape: InputShape, section: InteractionSection) -> Interaction:
        # Imported where it is needed, because it imports torch.
        made: Interaction = import_module(f"{__package__}.{kind}").build(shape, section)
        return made

    return build


for _kind, _section in INTERACTIONS.sections.items():
    register_interaction(_kind, _in_its_file(_kind), _section)
