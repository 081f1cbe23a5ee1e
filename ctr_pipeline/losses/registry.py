"""Training losses by the ``kind`` that a spec names, open to further ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from pydantic import create_model

from ctr_pipeline.errors import UserError
from ctr_pipeline.losses.protocol import Loss
from ctr_pipeline.spec.losses import LOSSES, BinaryCrossEntropy, LossSection

SectionT = TypeVar("SectionT", bound=LossSection)


@dataclass(frozen=True, slots=True)
class _Entry:
    build: Callable[[Any], Loss]
    origin: str


_ENTRIES: dict[str, _Entry] = {}


class LossError(UserError):
    """A loss of a spec that this process cannot build."""


@overload
def register_loss(kind: str, build: Callable[[], Loss]) -> None: ...


@overload
def register_loss(kind: str, build: Callable[[SectionT], Loss], section: type[SectionT]) -> None: ...


def register_loss(kind: str, build: Callable[..., Loss], section: type[LossSection] | None = None) -> None:
    """Makes a loss known under ``kind``, so that a spec can name it in ``tasks[].objective.loss``.

    A package that is installed beside this one registers its losses in a module that it names in the entry point group
    ``ctr_pipeline.extensions``. Such a module is imported by every process: import torch inside ``build`` to keep the
    start of those that do not train short.

    Args:
        kind: Value of the key ``kind`` in the spec.
        build: Makes the loss: of its section, or of nothing when it has no section. A class will do.
        section: Fields of the loss in the spec; without it the loss has no fields but ``kind``.

    Raises:
        ValueError: ``kind`` belongs to another loss, or is not that of ``section``.
    """
    origin = f"{build.__module__}.{build.__qualname__}"
    known = _ENTRIES.get(kind)
    if known is not None and known.origin != origin:
        raise ValueError(f"the kind {kind!r} of {origin} is already that of {known.origin}: choose another")
    if section is None:
        only: Any = Literal[kind]
        LOSSES.add(create_model(f"{kind}_loss", __base__=LossSection, kind=(only, kind)))
        _ENTRIES[kind] = _Entry(lambda _: build(), origin)
        return
    if section.model_fields["kind"].default != kind:
        raise ValueError(f"{section.__name__}.kind is not {kind!r}")
    LOSSES.add(section)
    _ENTRIES[kind] = _Entry(build, origin)


def build_loss(section: LossSection) -> Loss:
    """The loss that a spec's section describes.

    Raises:
        LossError: nothing in this process is registered under its kind.
    """
    entry = _ENTRIES.get(section.kind)
    if entry is None:
        raise LossError(
            f"no loss is registered under kind {section.kind!r}; registered: {', '.join(sorted(_ENTRIES))}. "
            "Install the package that it comes from here too."
        )
    return entry.build(section)


def _binary_cross_entropy(_: BinaryCrossEntropy) -> Loss:
    from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy

    return WeightedBinaryCrossEntropy()


register_loss("binary_cross_entropy", _binary_cross_entropy, BinaryCrossEntropy)
