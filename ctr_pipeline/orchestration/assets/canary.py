"""`canary`: the trial of a version beside the champion, and its end where its outcomes are not as predicted."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.canary import CanaryEvidence
from ctr_pipeline.orchestration.metadata import DIGEST_SHOWN, cell, table
from ctr_pipeline.orchestration.resources import LakeResource, TrackingResource
from ctr_pipeline.orchestration.user_errors import user_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.orchestration.resources.releases import RegisteredReleases, ReleaseRegistry
    from ctr_pipeline.serving.release import TaskOutcomes

ENDED = "last_trial"
"""Metadata: identifier of the last trial that ended, so that each rollback is reported once."""


def canary_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The trial that runs; of the present, and of no day."""
    spec = deployment.spec

    @dg.asset(
        deps=["serving_log", "labels", "champion"],
        check_specs=check_specs("canary"),
        group_name="release",
        kinds={"mlflow"},
        description="Champion, challenger and the trial of it; rolls a canary back whose outcomes are not as predicted.",
    )
    def canary(
        context: dg.AssetExecutionContext, lake: LakeResource, tracking: TrackingResource
    ) -> dg.MaterializeResult:
        from ctr_pipeline.orchestration.resources.releases import ReleaseRegistry
        from ctr_pipeline.serving.release import TrialMode, outcome_reasons

        registry = ReleaseRegistry(tracking, spec.name)
        held = registry.read()
        with user_errors():
            outcomes = _outcomes(deployment, lake.open(), registry, held)
        trial = held.trial
        is_canary = trial is not None and trial.mode is TrialMode.CANARY
        if trial is not None and is_canary and (reasons := outcome_reasons(outcomes, trial.rules)):
            at = datetime.now(UTC).isoformat(timespec="seconds")
            registry.end_trial(trial, "rolled back", " ".join(reasons), at)
            deployment.paths.registry_read.unlink(missing_ok=True)
            held = registry.read()
        last, known = held.last, _reported(context.instance)
        new = last is not None and last.trial != known
        ended = [f"Version {last.version} was {last.outcome} at {last.at}: {last.reason}"] if last is not None else []
        rolled_back = ended if last is not None and new and last.outcome == "rolled back" else []
        ratio = outcomes[0].challenger.ratio if outcomes and outcomes[0].challenger.expected else None
        return dg.MaterializeResult(
            metadata={
                "aliases": table(_alias_rows(registry, held)),
                "trial": dg.MetadataValue.md(_trial_text(held)),
                "outcomes": table(_outcome_rows(outcomes)),
                "last": dg.MetadataValue.md(" ".join(ended) or "none"),
                ENDED: last.trial if last is not None else "",
            },
            check_results=check_results("canary", CanaryEvidence(rolled_back, ratio)),
        )

    return [canary]


def _outcomes(
    deployment: Deployment, lake: "Lake", registry: "ReleaseRegistry", held: "RegisteredReleases"
) -> "Sequence[TaskOutcomes]":
    """Outcomes of both arms since the trial began; none without a trial."""
    from ctr_pipeline.online.canary_outcomes import canary_outcomes
    from ctr_pipeline.serving.release import Arm, TrialMode

    trial, champion = held.trial, held.aliases.get("champion")
    if trial is None or champion is None:
        return []
    own = Arm.CHALLENGER if trial.mode is TrialMode.CANARY else Arm.SHADOW
    arms = {
        arm: registry.version(version).tags.get("bundle_sha256", "")
        for arm, version in ((Arm.CHAMPION, champion), (own, trial.version))
    }
    since = int(datetime.fromisoformat(trial.started).timestamp() * 1_000_000)
    return canary_outcomes(deployment.spec, lake, arms, since)


def _reported(instance: dg.DagsterInstance) -> str:
    """The last trial that ended before the asset was made last; empty without one."""
    event = instance.get_latest_materialization_event(dg.AssetKey("canary"))
    if event is None or event.asset_materialization is None:
        return ""
    found = event.asset_materialization.metadata.get(ENDED)
    return str(found.value) if found is not None else ""


def _alias_rows(registry: "ReleaseRegistry", held: "RegisteredReleases") -> list[dict[str, Any]]:
    rows = []
    for alias, number in sorted(held.aliases.items()):
        tags = registry.version(number).tags
        sha256 = tags.get("bundle_sha256", "")[:DIGEST_SHOWN]
        rows.append({"alias": alias, "version": number, "day": tags.get("partition", ""), "sha256": sha256})
    return rows


def _trial_text(held: "RegisteredReleases") -> str:
    trial = held.trial
    if trial is None:
        return "none"
    share = f", {trial.share:.2%} of the users" if trial.share else ""
    return f"version {trial.version} as {trial.mode}{share}, since {trial.started}"


def _outcome_rows(outcomes: "Sequence[TaskOutcomes]") -> list[dict[str, Any]]:
    return [
        {"task": of.task, "arm": arm, "observed": side.observed, "expected": side.expected, "ratio": cell(side.ratio)}
        for of in outcomes
        for arm, side in (("champion", of.champion), ("challenger", of.challenger))
        if side.expected
    ]
