"""The detectors that every run has, open to further ones. Importing it needs no torch."""

from ctr_pipeline.gradients.core.detector import Detector

_DETECTORS: dict[str, type[Detector]] = {}


def register_detector(detector: type[Detector]) -> None:
    """Adds a detector to every run of this process, and its check to Dagster's.

    A package that is installed beside this one registers its detectors in a module that it names in the entry point
    group ``ctr_pipeline.extensions``; such a module is imported by every process.

    Raises:
        ValueError: the name belongs to another detector.
    """
    known = _DETECTORS.get(detector.name)
    if known is not None and _origin(known) != _origin(detector):
        raise ValueError(
            f"the name {detector.name!r} of detector {_origin(detector)} is already that of {_origin(known)}: "
            "choose another"
        )
    _DETECTORS[detector.name] = detector


def unregister_detector(name: str) -> None:
    """Takes a detector out again; KeyError when there is none of that name."""
    del _DETECTORS[name]


def registered_detectors() -> tuple[type[Detector], ...]:
    """All detectors, in the order in which they were registered."""
    return tuple(_DETECTORS.values())


def _origin(detector: type[Detector]) -> str:
    return f"{detector.__module__}.{detector.__qualname__}"
