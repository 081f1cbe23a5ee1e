"""Losses, calibrators, detectors, checks and modules that other installed packages add."""

from importlib.metadata import entry_points

from ctr_pipeline.errors import UserError

GROUP = "ctr_pipeline.extensions"
"""Entry point group: each entry names a module that registers its parts when it is imported."""


class ExtensionError(UserError):
    """An installed extension that cannot be imported."""


def load_extensions() -> None:
    """Imports the modules that installed packages name in the entry point group ``ctr_pipeline.extensions``.

    Called once at the start of each process (commands, Dagster's definitions, the trainer), so that all of them know
    the same parts.

    Raises:
        ExtensionError: a module fails to import; names the entry and the package.
    """
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else "an installed package"
            raise ExtensionError(
                f"extension {entry.name!r} ({entry.value}) of {package} cannot be imported: "
                f"{type(error).__name__}: {error}. Correct it or uninstall {package}."
            ) from error
