"""`attribution`: why the model of a retrain predicts otherwise than the one before it, and what that comes from."""

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.json_files import write_json
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.deployment.replaced_retrains import replaced_retrain
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.deployment.retrain_places import NoRetrainError, RetrainPlace
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.assets.datasets import retrain_tags
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.attribution import AttributionEvidence
from ctr_pipeline.orchestration.metadata import interval, run_metadata, table
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.report_pages import refresh_page, with_page
from ctr_pipeline.orchestration.resources import TrackingResource

if TYPE_CHECKING:
    from ctr_pipeline.attribution.explained_change import ExplainedChange

FIRST = "This is the first retrain: there is none before it to compare with."

SHOWN = 8
"""Causes that the asset's table shows."""


def attribution_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The comparison of a retrain with the champion in service, or with the retrain before it."""
    partitions, spec = daily_partitions(deployment), deployment.spec

    @dg.asset(
        # Not of `evaluation`: of a model that it refuses, one wants to know the cause most.
        deps=["calibrated_ranker", "training_dataset"],
        partitions_def=partitions,
        check_specs=check_specs("attribution"),
        group_name="model",
        kinds={"polars"},
        description="Why the model changed: in what this retrain differs from the one in service, and the causes in order.",
    )
    def attribution(context: dg.AssetExecutionContext, tracking: TrackingResource) -> dg.MaterializeResult:
        day = context.partition_key
        paths, own = deployment.paths.retrain(day), RetrainPlace(deployment.data_root, day)
        before, which = retrain_before(deployment.paths, own, _champion_folder(tracking, spec.name))
        run = RetrainFiles(paths).mlflow_run()
        found: ExplainedChange | None = None
        reason = None if before is not None else FIRST
        if before is not None:
            found, reason = _explained(context, before, own)
        content: dict[str, Any] = {"compared_with": which, "reason": reason}
        if found is not None:
            content |= found.to_json()
        write_json(paths.attribution, content)
        files = [("", paths.attribution)]
        if found is not None:
            from ctr_pipeline.attribution.change_page import change_page

            paths.attribution_page.write_text(change_page(content), encoding="utf-8")
            files.append(("", paths.attribution_page))
        else:
            # A page of an earlier run would be of another model.
            paths.attribution_page.unlink(missing_ok=True)
        tracking.log(run.run_id, {}, files)
        refresh_page(tracking, paths)
        evidence = AttributionEvidence(
            headline=None if found is None else found.headline,
            worse=[] if found is None else found.worse,
            reason=reason,
            page=str(paths.attribution_page) if found is not None else None,
        )
        return dg.MaterializeResult(
            metadata={
                "compared_with": which,
                "headline": found.headline if found is not None else str(reason),
                **(_tables(content) if found is not None else {}),
                **({"page": dg.MetadataValue.path(str(paths.attribution_page))} if found is not None else {}),
                **run_metadata(run.run_id, run.url),
            },
            tags=retrain_tags(deployment, context),
            check_results=with_page("attribution", check_results("attribution", evidence), paths, run),
        )

    return [attribution]


def retrain_before(root: DataRoot, own: RetrainPlace, champion: Path | None) -> tuple[RetrainPlace | None, str]:
    """The retrain that a new one is compared with, and which one that is in words.

    Args:
        root: The data root of the new one.
        own: The new one.
        champion: Folder of the training of the champion in service; None without one.
    """
    if champion is not None and champion.resolve() != own.paths.training.resolve():
        try:
            return RetrainPlace.of_folder(champion), "the champion in service"
        except NoRetrainError:
            pass
    if (kept := replaced_retrain(root, own.day)) is not None:
        return RetrainPlace(own.root, own.day, kept), "the retrain of the same day that it took the place of"
    days = [path.parent.name for path in root.retrains("calibration.json") if path.parent.name < own.day]
    if not days:
        return None, "nothing"
    return RetrainPlace(own.root, days[-1]), "the retrain before it"


def _champion_folder(tracking: TrackingResource, name: str) -> Path | None:
    held = tracking.champion(name)
    folder = held.tags.get("folder") if held is not None else None
    return Path(folder) if folder else None


def _explained(
    context: dg.AssetExecutionContext, before: RetrainPlace, own: RetrainPlace
) -> "tuple[ExplainedChange | None, str | None]":
    """The comparison, or why there is none: a model that can be served must not fail for want of an explanation."""
    from ctr_pipeline.deployment.explained_changes import explained_change

    try:
        return explained_change(before, own, progress=context.log.info), None
    except UserError as error:
        return None, f"The retrain of {before.day} could not be compared with: {error}"
    except Exception as error:
        context.log.warning(traceback.format_exc())
        return None, f"The comparison with the retrain of {before.day} failed ({type(error).__name__}: {error})."


def _tables(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"causes": table(cause_rows(content["causes"])), "ne": table(entropy_rows(content["ne"]))}


def cause_rows(causes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each of the first causes."""
    return [
        {
            "how sure": cause["certainty"],
            "cause": cause["sentence"],
            "share of the change": interval(cause["share"]),
            "because": cause["how"],
        }
        for cause in causes[:SHOWN]
    ]


def entropy_rows(changes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task."""
    return [
        {
            "task": task,
            "NE before": change["old"],
            "NE now": change["new"],
            "change": interval(change["change"]),
            "beyond chance": "yes" if change["significant"] else "no",
        }
        for task, change in changes.items()
    ]
