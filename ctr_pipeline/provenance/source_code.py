"""Which code made something: the package's version, and a digest of the files that it consists of."""

import hashlib
import os
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from ctr_pipeline import __version__
from ctr_pipeline.spec.extensions import GROUP

PACKAGE = Path(__file__).resolve().parents[1]

_NO_CODE = {"__pycache__", "bundled"}
"""Folders that are passed over. A wheel holds the bundled specs and configuration, which a checkout has elsewhere."""


def code_version() -> str:
    """Version of the package with a digest of all its files, which an edited checkout changes too."""
    return f"{__version__}+{code_digest(())[:12]}"


def code_digest(parts: Sequence[str]) -> str:
    """SHA-256 over the files of ``parts``, Python and all others, with their names.

    Args:
        parts: Packages or files, relative to the package's folder, such as ``labels`` or ``orchestration/stages.py``;
            none for the whole package.

    Raises:
        FileNotFoundError: a part does not exist.
    """
    digest = hashlib.sha256()
    for path in sorted({path for part in parts or ("",) for path in _files(PACKAGE / part)}):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def file_digests() -> dict[str, str]:
    """The beginning of each file's SHA-256, by its path in the package, and ``<entry point>: <path>`` in an extension's.

    Two retrains whose code differs can so be compared file by file, also when nobody has either checkout any more.
    """
    found = {str(path.relative_to(PACKAGE)): _begins(path) for path in sorted(_files(PACKAGE))}
    for entry in entry_points(group=GROUP):
        files, folder = _package_files(entry.module.partition(".")[0])
        found |= {f"{entry.name}: {path.relative_to(folder)}": _begins(path) for path in sorted(files)}
    return found


def extension_digests() -> dict[str, str]:
    """For each installed extension, by the name of its entry point, SHA-256 over the files of its package.

    What an extension adds (a loss, a detector) may decide a model as the pipeline's own code does.
    """
    return {entry.name: _package_digest(entry.module.partition(".")[0]) for entry in entry_points(group=GROUP)}


def _package_digest(package: str) -> str:
    files, folder = _package_files(package)
    if not files:
        return "absent"
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _package_files(package: str) -> tuple[list[Path], Path]:
    """The files of an installed package or module, none where it is absent, and the folder that they lie in."""
    found = find_spec(package)
    if found is None or found.origin is None:
        return [], PACKAGE
    origin = Path(found.origin)
    return (_files(origin.parent) if found.submodule_search_locations else [origin]), origin.parent


def _begins(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _files(part: Path) -> list[Path]:
    if part.is_file():
        return [part]
    if not part.is_dir():
        raise FileNotFoundError(part)
    found = []
    for folder, below, names in os.walk(part):
        below[:] = [name for name in below if name not in _NO_CODE]
        found += [Path(folder, name) for name in names]
    return found
