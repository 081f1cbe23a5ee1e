"""What a calibrator is, and the kinds that there are."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals
from ctr_pipeline.errors import UserError
from ctr_pipeline.spec.calibration import CALIBRATORS, CalibratorSection
from ctr_pipeline.spec.variants import Registry

if TYPE_CHECKING:
    from torch import nn

KIND, PACKAGE = "kind", "package"
"""Keys of a calibrator's JSON that this module writes; a calibrator's own fields have other names."""

_FIRST_KIND = "platt"
"""Calibrators of this kind are written without their kind: bundles had them before there were others."""


class CalibrationError(UserError):
    """A calibrator that cannot be fitted or read; the message says what was found and what was expected."""


class Calibrator(Protocol):
    """A fitted map from the logits of one task to calibrated logits.

    It keeps the order of the rows: of two logits, the higher one never gets the lower calibrated logit.
    """

    @property
    def rows(self) -> int:
        """Labelled rows that it was fitted on."""

    @property
    def positives(self) -> int:
        """Positive ones among them."""

    @property
    def reason(self) -> str | None:
        """Why it was not, or not wholly, fitted; None when it was."""

    @classmethod
    def fit(cls, *args: Any, **kwargs: Any) -> Self:
        """A calibrator fitted on ``logits`` [N] and ``labels`` [N] in {0, 1, -1}, of which -1 is left out.

        Where the rows define no calibrator, as rows of one class, it returns one that changes nothing, with the reason.
        A kind that has fields in the spec receives its section as third argument.
        """

    def apply(self, logits: Reals) -> Float64s:
        """Calibrated logits of ``logits``, of any shape."""

    def to_json(self) -> dict[str, Any]:
        """Its fields, for :meth:`from_json`: ``rows``, ``positives``, ``reason`` and what it needs besides."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The calibrator that :meth:`to_json` described.

        Raises:
            CalibrationError: a field is absent or has a value that it cannot have.
        """

    @classmethod
    def module(cls, fitted: Sequence[Self]) -> "nn.Module":
        """The calibrators of all tasks as one module, in the order of the tasks: logits [B, T] to calibrated ones.

        It does the arithmetic of :meth:`apply` in float32 with operations that ONNX has, a row at a time. What it
        needs is in buffers, not in constants.
        """


_KINDS: Registry[CalibratorSection, Calibrator] = Registry("calibrator", CALIBRATORS, CalibrationError)
_CLASSES: dict[str, type[Calibrator]] = {}


def register_calibrator(
    kind: str, calibrator: type[Calibrator], section: type[CalibratorSection] | None = None
) -> None:
    """Makes a calibrator known under ``kind``, so that a spec can name it in ``calibration``.

    A package of its own does this in a module that it names in the entry point group ``ctr_pipeline.extensions``. Such
    a module is imported by every process: import torch inside ``module`` to keep the start of the others short.

    Args:
        kind: Value of the key ``kind`` in the spec.
        calibrator: The class.
        section: Fields of the calibrator in the spec; without it the calibrator has no fields but ``kind``.

    Raises:
        ValueError: ``kind`` belongs to another calibrator, or is not that of ``section``.
    """
    fit: Callable[..., Calibrator] = calibrator.fit
    _KINDS.add(kind, fit, section)
    _CLASSES[kind] = calibrator


def register_choice(kind: str, choose: Callable[..., Calibrator], section: type[CalibratorSection]) -> None:
    """Makes a way to choose among calibrators known under ``kind``; what it returns is of a registered kind itself.

    Raises:
        ValueError: as for :func:`register_calibrator`.
    """
    _KINDS.add(kind, choose, section)


def register_wrapper(kind: str, calibrator: type[Calibrator]) -> None:
    """Makes a calibrator that holds another one readable from JSON under ``kind``; no spec names it so."""
    _CLASSES[kind] = calibrator


def fit_calibrator(section: CalibratorSection, logits: Reals, labels: Integers) -> Calibrator:
    """The calibrator that a section describes, fitted on ``logits`` [N] and ``labels`` [N].

    Raises:
        ScoreError: a label is none of 0, 1, -1, or a labelled row's logit is not finite.
        CalibrationError: nothing is registered under the section's kind.
    """
    return _KINDS.build(section, logits, labels)


def calibrator_to_json(calibrator: Calibrator) -> dict[str, Any]:
    """The calibrator's fields, its kind and the package that it comes from, for :func:`calibrator_from_json`."""
    kind = next((kind for kind, known in _CLASSES.items() if known is type(calibrator)), None)
    if kind is None:
        raise CalibrationError(
            f"{type(calibrator).__qualname__} is not registered: call register_calibrator(kind, class) first."
        )
    if kind == _FIRST_KIND:
        return calibrator.to_json()
    return {KIND: kind, PACKAGE: type(calibrator).__module__.partition(".")[0], **calibrator.to_json()}


def calibrator_from_json(content: Mapping[str, Any]) -> Calibrator:
    """The calibrator that :func:`calibrator_to_json` described.

    Raises:
        CalibrationError: nothing is registered under its kind; names the package that it comes from. Or its fields are
            wrong.
    """
    kind = content.get(KIND, _FIRST_KIND)
    known = _CLASSES.get(kind)
    if known is None:
        raise CalibrationError(
            f"no calibrator is registered under kind {kind!r}; registered: {', '.join(sorted(_CLASSES))}. Install the "
            f"package that it comes from here too: {content.get(PACKAGE, 'which one is not recorded')}."
        )
    return known.from_json({name: value for name, value in content.items() if name not in (KIND, PACKAGE)})
