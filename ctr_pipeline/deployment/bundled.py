"""Files that come with the pipeline: specs, and the configuration of Dagster.

They lie at the top of the checkout; pyproject.toml puts them into the wheel as ``ctr_pipeline/bundled``.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled_file(name: str) -> Path:
    """The bundled file ``name``: inside the package where it was installed from a wheel, else beside it."""
    installed = _PACKAGE / "bundled" / name
    return installed if installed.exists() else _PACKAGE.parent / name


def bundled_specs() -> dict[str, Path]:
    """The bundled specs by name."""
    return {path.stem: path for path in sorted(bundled_file("specs").glob("*.yaml"))}


def bundled_spec(name: str) -> Path:
    """The bundled spec ``name``, such as ``ads``."""
    return bundled_file("specs") / f"{name}.yaml"
