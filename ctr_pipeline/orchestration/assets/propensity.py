"""`position_propensity`: how exposure and examination differ between randomised and production traffic."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.orchestration.assets.datasets import retrain_tags, tables_of
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.propensity import PropensityEvidence
from ctr_pipeline.orchestration.metadata import interval, plots, table
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.user_errors import user_errors

if TYPE_CHECKING:
    from ctr_pipeline.propensity import PropensityTable


def propensity_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The propensity tables of a retrain."""

    @dg.asset(
        deps=["examples"],
        partitions_def=daily_partitions(deployment),
        check_specs=check_specs("position_propensity"),
        group_name="dataset",
        kinds={"numpy"},
        description="IPS(position, response) and examination by position, with intervals and effective sample size.",
    )
    def position_propensity(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.datasets import fit_propensity

        files = RetrainFiles(deployment.paths.retrain(context.partition_key))
        with user_errors():
            view, tables = files.examples(), tables_of(deployment, lake.open(), context.partition_key)
            found = fit_propensity(
                deployment.spec, view.bounds, tables.impressions, tables.labels, view.watermarks.get("train")
            )
        files.write_propensity(found)
        usable = {r.response: (r.ess_rows, r.ess_positives) for r in found.responses if r.usable}
        return dg.MaterializeResult(
            metadata={
                "positions": table(_position_rows(found)),
                "random_traffic": table(_random_rows(found)),
                "responses": table(_response_rows(found)),
                **plots(_plots(found)),
            },
            tags=retrain_tags(deployment, context),
            check_results=check_results("position_propensity", PropensityEvidence(usable)),
        )

    return [position_propensity]


def _position_rows(found: "PropensityTable") -> list[dict[str, Any]]:
    return [
        {
            "response": p.response,
            "position": p.position,
            "examination": interval({"value": p.examination, "low": p.examination_low, "high": p.examination_high}),
            "weight": p.weight,
        }
        for p in found.positions
    ]


def _random_rows(found: "PropensityTable") -> list[dict[str, Any]]:
    """What the random traffic of each position counts."""
    return [
        {
            "response": p.response,
            "position": p.position,
            "rows": p.random_rows,
            "outcomes": p.random_positives,
            "exposure": interval({"value": p.exposure_ratio, "low": p.exposure_low, "high": p.exposure_high}),
        }
        for p in found.positions
    ]


def _response_rows(found: "PropensityTable") -> list[dict[str, Any]]:
    return [
        {
            "response": r.response,
            "rows": r.rows,
            "effective rows": round(r.ess_rows),
            "effective outcomes": round(r.ess_positives),
            "clipped": r.clipped_share,
            "used": "yes" if r.usable else f"no: {r.reason}",
        }
        for r in found.responses
    ]


def _plots(found: "PropensityTable") -> dict[str, bytes]:
    from ctr_pipeline.evaluation.plots import propensity_plot

    images = {}
    for response in [r.response for r in found.responses if r.usable]:
        own = [p for p in found.positions if p.response == response]
        images[f"rates_{response}"] = propensity_plot(
            [p.position for p in own],
            [p.random_rows for p in own],
            [p.random_positives for p in own],
            response=response,
            title=f"Rate of {response} by position in random traffic",
        )
    return images
