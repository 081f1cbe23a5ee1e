"""What an architecture of the heads must be able to do, and the architectures by the ``kind`` that a spec names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar, overload

from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.heads.head_shape import HeadShape
from ctr_pipeline.spec.heads import HEADS, Aitm, HeadSection, Mmoe, Ple, SharedBottom, TaskTowers
from ctr_pipeline.spec.variants import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

SectionT = TypeVar("SectionT", bound=HeadSection)


class Head(Protocol):
    """A torch module between the hidden units, which all tasks read, and the last linear layer, which has a row a task.

    What a task has of its own is in the item of :attr:`own` at its place: everything else counts as shared by the tasks,
    where gradients of tasks are compared. Where a task's gradient is stopped (:meth:`HeadShape.as_read_by`), nothing but
    its own item learns from it. The module treats each row by itself and exports to ONNX with any number of rows. It
    runs where the tower runs: under autocast when training is in 16 bits.
    """

    @property
    def out_width(self) -> int:
        """Width K of what the last layer reads of each task, at least 1."""

    @property
    def own(self) -> Iterable[nn.Module]:
        """[T] the modules of each task's own."""

    @property
    def readers(self) -> list[nn.Linear]:
        """The linear layers that read the hidden units themselves."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, K] what each task's last layer reads, from the hidden units [B, H]."""


_HEADS: Registry[HeadSection, Head] = Registry("head", HEADS, RankerError)


@overload
def register_head(kind: str, build: Callable[[HeadShape], Head]) -> None: ...


@overload
def register_head(kind: str, build: Callable[[HeadShape, SectionT], Head], section: type[SectionT]) -> None: ...


def register_head(kind: str, build: Callable[..., Head], section: type[HeadSection] | None = None) -> None:
    """Makes an architecture known under ``kind``, so that a spec can name it in ``model.multi_task``.

    A package that is installed beside this one registers its modules in a module that it names in the entry point group
    ``ctr_pipeline.extensions``. Such a module is imported by every process: import torch inside ``build`` to keep the
    start of those that do not train short.

    Args:
        kind: Value of the key ``kind`` in the spec.
        build: Makes the module from the shape of what it reads and, if there is one, its section. A class will do.
        section: Fields of the architecture in the spec; without it it has those of every one only.

    Raises:
        ValueError: ``kind`` is no name, belongs to another architecture, or is not that of ``section``.
    """
    _HEADS.add(kind, build, section)


def build_head(section: HeadSection, shape: HeadShape) -> nn.Module:
    """The module that a spec's section describes, with the gates of ``gate_on``.

    Raises:
        RankerError: nothing in this process is registered under its kind, or what is registered does not keep to the
            protocol.
    """
    from torch import nn

    from ctr_pipeline.ranker.heads.parent_gates import ParentGates

    head = _HEADS.build(section, shape)
    width, own = getattr(head, "out_width", None), getattr(head, "own", None)
    if not isinstance(head, nn.Module) or not isinstance(width, int) or width < 1 or own is None:
        raise RankerError(
            f"head {section.kind!r}: a torch.nn.Module with an `out_width` of at least 1 and a list `own` of the tasks' own "
            f"modules is expected, found a {type(head).__name__}. Correct the class or function that is registered."
        )
    return ParentGates(head, shape) if section.gate_on == "parent" else head


def _shared_bottom(shape: HeadShape, _: SharedBottom) -> Head:
    from ctr_pipeline.ranker.heads.shared_bottom import SharedUnits

    return SharedUnits(shape)


def _task_towers(shape: HeadShape, section: TaskTowers) -> Head:
    from ctr_pipeline.ranker.heads.task_towers import OwnTowers

    return OwnTowers(shape, section)


def _mmoe(shape: HeadShape, section: Mmoe) -> Head:
    from ctr_pipeline.ranker.heads.mmoe import MixtureOfExperts

    return MixtureOfExperts(shape, section)


def _ple(shape: HeadShape, section: Ple) -> Head:
    from ctr_pipeline.ranker.heads.ple import LayeredExtraction

    return LayeredExtraction(shape, section)


def _aitm(shape: HeadShape, section: Aitm) -> Head:
    from ctr_pipeline.ranker.heads.aitm import AdaptiveTransfer

    return AdaptiveTransfer(shape, section)


register_head("shared_bottom", _shared_bottom, SharedBottom)
register_head("task_towers", _task_towers, TaskTowers)
register_head("mmoe", _mmoe, Mmoe)
register_head("ple", _ple, Ple)
register_head("aitm", _aitm, Aitm)
