"""The models that a log of requests names, wherever their files are."""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.paths import DataRoot

if TYPE_CHECKING:
    from ctr_pipeline.features.layout import Layout
    from ctr_pipeline.online.skew_findings import LoggedModel


PROFILE_FILE = "input_profile.json"
"""Beside the files of a bundle: what its inputs looked like in the training."""


def logged_models(paths: DataRoot, wanted: Collection[str]) -> "dict[str, LoggedModel]":
    """By SHA-256 of their manifests, those of the wanted models whose files are in the data root."""
    import polars as pl

    from ctr_pipeline.features.input_profile import InputProfile
    from ctr_pipeline.online.skew_findings import LoggedModel
    from ctr_pipeline.serving import Bundle, BundleError

    found: dict[str, LoggedModel] = {}
    for sha, manifest in _copies(paths, wanted):
        if sha in found:
            continue
        try:
            bundle = Bundle.open(manifest.parent)
        except BundleError:
            # Of another format, or damaged: another copy may be whole.
            continue
        profile = manifest.with_name(PROFILE_FILE)
        found[sha] = LoggedModel(
            bundle=bundle,
            vocabulary=pl.read_parquet(bundle.directory / "vocabulary.parquet"),
            training=InputProfile.from_json(profile.read_text(encoding="utf-8")) if profile.is_file() else None,
        )
    return found


def logged_layouts(paths: DataRoot, wanted: Collection[str]) -> "dict[str, Layout]":
    """By SHA-256 of their manifests, the layouts of those of the wanted models whose files are in the data root."""
    from ctr_pipeline.features.layout import Layout, LayoutError

    found: dict[str, Layout] = {}
    for sha, manifest in _copies(paths, wanted):
        if sha in found:
            continue
        try:
            found[sha] = Layout.from_json(manifest.with_name("layout.json").read_text(encoding="utf-8"))
        except (LayoutError, OSError):
            # Another copy may be whole.
            continue
    return found


def _copies(paths: DataRoot, wanted: Collection[str]) -> Iterator[tuple[str, Path]]:
    """SHA-256 and manifest of each copy of the wanted models."""
    for manifest in _manifests(paths) if wanted else ():
        sha = hashlib.sha256(manifest.read_bytes()).hexdigest()
        if sha in wanted:
            yield sha, manifest


def _manifests(paths: DataRoot) -> Iterator[Path]:
    yield from sorted(paths.root.glob("training/*/bundle/manifest.json"), reverse=True)
    yield from sorted(paths.mlflow_artifacts.rglob("manifest.json"))
