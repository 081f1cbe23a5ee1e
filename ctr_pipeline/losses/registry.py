"""Losses and objectives by the ``kind`` that a spec names, open to further ones."""

from collections.abc import Callable
from typing import TypeVar, overload

from ctr_pipeline.errors import UserError
from ctr_pipeline.losses.protocol import Loss, Objective
from ctr_pipeline.spec.losses import LOSSES, BinaryCrossEntropy, DfmDiscrete, DfmWeibull, Focal, Fsiw, LossSection
from ctr_pipeline.spec.objectives import OBJECTIVES, Binary, ObjectiveSection
from ctr_pipeline.spec.variants import Registry

LossSectionT = TypeVar("LossSectionT", bound=LossSection)
ObjectiveSectionT = TypeVar("ObjectiveSectionT", bound=ObjectiveSection)


class LossError(UserError):
    """A loss or an objective that a spec names and this process does not have."""


_LOSSES: Registry[LossSection, Loss] = Registry("loss", LOSSES, LossError)
_OBJECTIVES: Registry[ObjectiveSection, Objective] = Registry("objective", OBJECTIVES, LossError)


@overload
def register_loss(kind: str, build: Callable[[], Loss]) -> None: ...


@overload
def register_loss(kind: str, build: Callable[[LossSectionT], Loss], section: type[LossSectionT]) -> None: ...


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
    _LOSSES.add(kind, build, section)


def register_objective(
    kind: str, build: Callable[[ObjectiveSectionT], Objective], section: type[ObjectiveSectionT]
) -> None:
    """Makes an objective known under ``kind``, so that a spec can name it in ``tasks[].objective``.

    Raises:
        ValueError: as for :func:`register_loss`.
    """
    _OBJECTIVES.add(kind, build, section)


def build_loss(section: LossSection) -> Loss:
    """The loss that a spec's section describes.

    Raises:
        LossError: nothing in this process is registered under its kind.
    """
    return _LOSSES.build(section)


def build_objective(section: ObjectiveSection) -> Objective:
    """The objective that a spec's section describes.

    Raises:
        LossError: nothing in this process is registered under its kind, or under that of its loss.
    """
    return _OBJECTIVES.build(section)


def _binary_cross_entropy(_: BinaryCrossEntropy) -> Loss:
    from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy

    return WeightedBinaryCrossEntropy()


def _focal(section: Focal) -> Loss:
    from ctr_pipeline.losses.focal import FocalLoss

    return FocalLoss(section.gamma, section.alpha)


def _dfm_discrete(section: DfmDiscrete) -> Loss:
    from ctr_pipeline.losses.delay_curves import DelayBuckets
    from ctr_pipeline.losses.delayed_feedback import CureModelLoss

    edges = [edge / 1e6 for edge in section.edges]
    return CureModelLoss(lambda delays: DelayBuckets(delays, edges))


def _dfm_weibull(_: DfmWeibull) -> Loss:
    from ctr_pipeline.losses.delay_curves import WeibullDelays
    from ctr_pipeline.losses.delayed_feedback import CureModelLoss

    return CureModelLoss(WeibullDelays)


def _fsiw(_: Fsiw) -> Loss:
    from ctr_pipeline.losses.delay_curves import DelayBuckets
    from ctr_pipeline.losses.delayed_feedback import ImportanceWeightedLoss

    edges = [edge / 1e6 for edge in DfmDiscrete().edges]
    return ImportanceWeightedLoss(lambda delays: DelayBuckets(delays, edges))


def _binary(section: Binary) -> Objective:
    from ctr_pipeline.losses.binary_objective import BinaryObjective

    return BinaryObjective(build_loss(section.loss))


register_loss("binary_cross_entropy", _binary_cross_entropy, BinaryCrossEntropy)
register_loss("focal", _focal, Focal)
register_loss("dfm_discrete", _dfm_discrete, DfmDiscrete)
register_loss("dfm_weibull", _dfm_weibull, DfmWeibull)
register_loss("fsiw", _fsiw, Fsiw)
register_objective("binary", _binary, Binary)
