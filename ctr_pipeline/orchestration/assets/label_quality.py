"""`advertiser_quality`: who reports far more or fewer outcomes than the others, and the weights of their labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.retrain_files import ExamplesView, RetrainFiles
from ctr_pipeline.orchestration.assets.datasets import retrain_tags, tables_of
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.label_quality import LabelQualityEvidence
from ctr_pipeline.orchestration.metadata import plots, table
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.user_errors import user_errors
from ctr_pipeline.spec import Spec

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.datasets import Tables
    from ctr_pipeline.labels import KeyQuality, QualityTable, TaskQuality
    from ctr_pipeline.spec.weighting import LabelQuality

LISTED = 30
"""Flagged keys in the asset's metadata; the file has all."""

NOT_DECLARED = "Not declared: the spec has no section `label_quality`, so no key is evaluated and all weights are 1."


def label_quality_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The label quality of a retrain."""

    @dg.asset(
        deps=["examples"],
        partitions_def=daily_partitions(deployment),
        check_specs=check_specs("advertiser_quality"),
        group_name="dataset",
        kinds={"numpy"},
        description="Advertisers, or other keys, whose outcome rates are implausible among the others, with weights.",
    )
    def advertiser_quality(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.labels import QualityTable

        files = RetrainFiles(deployment.paths.retrain(context.partition_key))
        section = deployment.spec.label_quality
        found, keys, shown = QualityTable(key=None, tasks=(), flagged=()), None, {}
        if section is not None:
            with user_errors():
                tables = tables_of(deployment, lake.open(), context.partition_key)
                found, keys = _fit(deployment.spec, files.examples(), tables)
            shown = plots(_plots(found, keys, section))
        files.write_advertiser_quality(found, keys)
        limit = section.max_flagged_share if section is not None else 1.0
        return dg.MaterializeResult(
            metadata={
                "flagged_keys": dg.MetadataValue.md(flagged_table(found) if section is not None else NOT_DECLARED),
                "tasks": table(_task_rows(found)),
                "weighting": section.weighting if section is not None else "none",
                **shown,
            },
            tags=retrain_tags(deployment, context),
            check_results=check_results("advertiser_quality", LabelQualityEvidence(_misstated(found), limit)),
        )

    return [advertiser_quality]


def _fit(spec: Spec, view: ExamplesView, tables: "Tables") -> "tuple[QualityTable, pl.DataFrame]":
    from ctr_pipeline.datasets import fit_label_quality

    return fit_label_quality(spec, view.bounds, tables.impressions, tables.labels, view.watermarks.get("train"))


def _misstated(found: "QualityTable") -> dict[str, tuple[float, list[str]]]:
    """By task, the share that flagged keys hold, and those of them that report too much or too little."""
    return {
        task.task: (
            task.flagged_share,
            [entry.key for entry in found.flagged if entry.task == task.task and entry.status != "late"],
        )
        for task in found.tasks
    }


def flagged_table(found: "QualityTable", most: int = LISTED) -> str:
    """The keys farthest from the others as a Markdown table."""
    if not found.flagged:
        return "No key is flagged."
    names = (found.key, "task", "outcomes", "rate", "expected", "status")
    rows: list[Sequence[str]] = [[str(name) for name in names], ["---"] * len(names)]
    rows += [_cells(entry) for entry in found.flagged[:most]]
    left_out = len(found.flagged) - most
    more = f"{left_out} more keys, and " if left_out > 0 else ""
    return "\n".join(
        [
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            f"With {more}z, delay and weight: advertiser_quality.json.",
        ]
    )


def _cells(entry: "KeyQuality") -> list[str]:
    plain = entry.key.replace("|", "\\|").replace("`", "'").replace("\n", " ")
    late = entry.status == "late" and entry.delay_hours is not None
    return [
        f"`{plain}`",
        entry.task,
        f"{entry.positives:,}/{entry.trials:,}",
        f"{entry.rate:.1%}",
        "–" if entry.expected_rate is None else f"{entry.expected_rate:.1%}",
        f"late by {entry.delay_hours:.1f} h" if late else entry.status,
    ]


def _task_rows(found: "QualityTable") -> list[dict[str, object]]:
    return [
        {
            "task": task.task,
            "evaluated": f"{task.evaluated:,} of {task.keys:,} keys",
            "expected": "–" if task.expected_rate is None else f"{task.expected_rate:.1%}",
            "flagged": _flagged(task),
            "their share": f"{task.flagged_share:.1%}",
        }
        for task in found.tasks
    ]


def _flagged(task: "TaskQuality") -> str:
    """How many keys have which status, or why none was evaluated."""
    counts = {"inflated": task.inflated, "dropped": task.dropped, "late": task.late}
    return task.reason or ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none"


def _plots(found: "QualityTable", keys: "pl.DataFrame", section: "LabelQuality") -> dict[str, bytes]:
    from ctr_pipeline.evaluation.funnel_plot import funnel_plot

    images = {}
    for task in found.tasks:
        own = keys.filter(keys["task"] == task.task)
        images[f"rates_{task.task}"] = funnel_plot(
            own["trials"].to_numpy(),
            own["positives"].to_numpy(),
            task.population,
            threshold=section.threshold,
            least=section.min_trials,
            counted=task.parent or "impression",
            title=f"{task.task} per {task.parent or 'impression'}, by {found.key}",
        )
    return images
