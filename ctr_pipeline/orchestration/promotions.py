"""Versions of the registry side by side, and what speaks against a promotion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.orchestration.assets.champion_comparison import RELEASE_FILE
from ctr_pipeline.orchestration.assets.release import COMPARED_TAG, PASSED_TAG
from ctr_pipeline.orchestration.gates import refusal_reasons
from ctr_pipeline.orchestration.instance import prepare_home
from ctr_pipeline.orchestration.resources.releases import REASON_TAG, ROLLED_BACK_TAG, ReleaseRegistry
from ctr_pipeline.orchestration.resources.tracking import ModelVersion

if TYPE_CHECKING:
    from ctr_pipeline.orchestration.resources.releases import RegisteredReleases


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFacts:
    """What is known of a version.

    Attributes:
        version: Its number.
        aliases: Its aliases.
        day: Day of its data, YYYY-MM-DD; empty where unknown.
        sha256: SHA-256 of its bundle; empty where unknown.
        metrics: Metric of its test rows, such as ``click/ne``, to its value.
        compared: What was found when it was compared with the champion of then; empty where unknown.
        rolled_back: When and why it was rolled back; empty where it was not.
    """

    version: str
    aliases: tuple[str, ...]
    day: str
    sha256: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    compared: str = ""
    rolled_back: str = ""


def version_facts(registry: ReleaseRegistry, held: "RegisteredReleases", version: ModelVersion) -> VersionFacts:
    """What the registry and the run of a version tell of it."""
    tags = version.tags
    at, why = tags.get(ROLLED_BACK_TAG), tags.get(REASON_TAG, "")
    return VersionFacts(
        version=version.version,
        aliases=tuple(sorted(alias for alias, number in held.aliases.items() if number == version.version)),
        day=tags.get("partition", ""),
        sha256=tags.get("bundle_sha256", ""),
        metrics=registry.tracking.test_metrics(version.run_id),
        compared=tags.get(COMPARED_TAG, ""),
        rolled_back=f"{at}: {why}" if at else "",
    )


def promotion_refusals(deployment: Deployment, version: ModelVersion) -> list[str]:
    """What speaks against serving a version: its comparison, the checks of its day as they are now, a rollback.

    Args:
        deployment: The deployment.
        version: The version. Where a later retrain of the same day has replaced its files, its checks are not known.
    """
    reasons = []
    if at := version.tags.get(ROLLED_BACK_TAG):
        reasons.append(f"It was rolled back at {at}: {version.tags.get(REASON_TAG, '')}")
    if version.tags.get(PASSED_TAG) == "false":
        reasons.append(f"It did not pass the comparison with the champion: {version.tags.get(COMPARED_TAG, '')}")
    release = Path(version.tags.get("folder", "")) / RELEASE_FILE
    day = version.tags.get("partition", "")
    if not day or not release.is_file() or str(read_json(release).get("version")) != version.version:
        return reasons
    with dg.DagsterInstance.from_config(str(prepare_home(deployment.paths))) as instance:
        return [*reasons, *refusal_reasons(deployment.spec, deployment.paths.retrain(day), instance, "champion")]
