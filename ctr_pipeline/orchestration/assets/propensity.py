"""`position_propensity`: how exposure and examination differ between randomised and production traffic."""

from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.orchestration.assets.datasets import PROPENSITY_FILE, view_of, watermarks_of
from ctr_pipeline.orchestration.checks.propensity import check_effective_rows, effective_rows_spec
from ctr_pipeline.orchestration.fingerprints import TAG, retrain_fingerprint
from ctr_pipeline.orchestration.metadata import plots, table
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.user_errors import user_errors

if TYPE_CHECKING:
    from ctr_pipeline.propensity import PropensityTable


def propensity_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The propensity tables of a retrain."""

    @dg.asset(
        deps=["examples"],
        partitions_def=daily_partitions(settings),
        check_specs=[effective_rows_spec("position_propensity")],
        group_name="dataset",
        kinds={"numpy"},
        description="IPS(position, response) and examination by position, with intervals and effective sample size.",
    )
    def position_propensity(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.datasets import fit_propensity

        day = context.partition_key
        with user_errors():
            bounds, tables = view_of(settings, lake.open(), day)
            found = fit_propensity(
                settings.spec, bounds, tables.impressions, tables.labels, watermarks_of(settings, day).get("train")
            )
        path = settings.dataset_folder(day) / PROPENSITY_FILE
        path.write_text(found.to_json(), encoding="utf-8")
        return dg.MaterializeResult(
            metadata={
                "positions": table(_position_rows(found)),
                "responses": table(_response_rows(found)),
                **plots(_plots(found)),
            },
            tags={TAG: retrain_fingerprint(settings, context.instance, date.fromisoformat(day))},
            check_results=[
                check_effective_rows(
                    "position_propensity",
                    {r.response: (r.ess_rows, r.ess_positives) for r in found.responses if r.usable},
                )
            ],
        )

    return [position_propensity]


def _position_rows(found: "PropensityTable") -> list[dict[str, Any]]:
    return [
        {
            "response": p.response,
            "position": p.position,
            "exposure_ratio": p.exposure_ratio,
            "exposure_low": p.exposure_low,
            "exposure_high": p.exposure_high,
            "examination": p.examination,
            "examination_low": p.examination_low,
            "examination_high": p.examination_high,
            "weight": p.weight,
            "random_rows": p.random_rows,
            "random_outcomes": p.random_positives,
        }
        for p in found.positions
    ]


def _response_rows(found: "PropensityTable") -> list[dict[str, Any]]:
    return [
        {
            "response": r.response,
            "usable": r.usable,
            "rows": r.rows,
            "effective_rows": r.ess_rows,
            "effective_outcomes": r.ess_positives,
            "clipped": r.clipped_share,
            "reason": r.reason,
        }
        for r in found.responses
    ]


def _plots(found: "PropensityTable") -> dict[str, bytes]:
    from ctr_pipeline.evaluation.plots import propensity_plot

    images = {}
    for response in [r.response for r in found.responses if r.usable]:
        own = [p for p in found.positions if p.response == response]
        images[f"random_traffic_{response}"] = propensity_plot(
            [p.position for p in own],
            [p.random_rows for p in own],
            [p.random_positives for p in own],
            response=response,
            title=f"Rate of {response} by position in random traffic",
        )
    return images
