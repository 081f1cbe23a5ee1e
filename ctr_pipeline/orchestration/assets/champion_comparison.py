"""The new model of a retrain beside the champion: its gates, and what earlier retrains of the same spec found."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.orchestration.assets.slices import slice_values
from ctr_pipeline.orchestration.champion_scores import champion_logits
from ctr_pipeline.orchestration.resources import TrackingResource
from ctr_pipeline.orchestration.resources.tracking import ModelVersion
from ctr_pipeline.spec import Spec, spec_hash
from ctr_pipeline.spec.evaluation import Evaluation
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.limits import Quality

if TYPE_CHECKING:
    from ctr_pipeline.datasets import Tables
    from ctr_pipeline.evaluation import PromotionDecision, PromotionRules
    from ctr_pipeline.evaluation.daily_entropy import DayEntropy
    from ctr_pipeline.evaluation.decay import Decay

RELEASE_FILE = "release.json"
"""Among the files of a retrain: its version, and what the comparison found."""

MODEL_SPEC = "model_spec"
"""In what a comparison records: digest of the spec that the model was made by."""

OBSTACLE = "obstacle"
"""In what a comparison records: why the models could not be compared; None where they were."""


def promotion_rules(spec: Spec) -> "PromotionRules":
    """The limits of the gates that the spec declares."""
    from ctr_pipeline.evaluation import PromotionRules

    declared = spec.quality.promotion
    return PromotionRules(
        max_ne_regression=spec.quality.max_ne_regression,
        require_better=declared.require == "better",
        max_auc_loss=declared.max_auc_loss,
        max_ap_loss=declared.max_ap_loss,
        calibrated_within=declared.calibrated_within,
        max_slice_regression=declared.max_slice_regression,
        min_slice_share=declared.min_slice_share,
        good_days=declared.good_days,
        undecided_passes=declared.when_undecided == "pass",
    )


def model_spec(spec: Spec) -> str:
    """Digest of what of the spec decides the model: all but the limits of checks and the keys of metrics."""
    return spec_hash(spec.model_copy(update={"quality": Quality(), "evaluation": Evaluation()}))


def compare_models(
    deployment: Deployment, paths: RetrainPaths, tables: "Tables", tracking: TrackingResource, held: ModelVersion | None
) -> "tuple[PromotionDecision, str | None]":
    """The comparison on the test rows, and the obstacle to it."""
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.evaluation import decide_promotion

    spec, dataset = deployment.spec, PackedDataset.open(paths.packed)
    test, tasks = dataset.splits["test"], [task.name for task in spec.tasks]
    logits, obstacle = champion_logits(spec, paths, tables, tracking, held)
    decision = decide_promotion(
        tasks,
        RetrainFiles(paths).calibrated("test", tasks),
        logits,
        test.labels,
        test.user,
        rules=promotion_rules(spec),
        days=test.ts // DAY_US,
        random=test.random,
        slices=slice_values(spec, paths, dataset),
        origin=paths.day,
        earlier=earlier_origins(deployment, paths.day),
    )
    return decision, obstacle


def recorded(decision: "PromotionDecision", spec: Spec, obstacle: str | None) -> dict[str, Any]:
    """What is kept of a comparison, as plain values."""
    return {**decision.to_json(), MODEL_SPEC: model_spec(spec), OBSTACLE: obstacle}


def earlier_origins(deployment: Deployment, day: str) -> "dict[str, list[DayEntropy]]":
    """Day of the retrains before ``day`` of the same model's spec, the newest ones, to what they found beside the champion of then.

    With ``evaluation.origins`` of N there are up to N - 1 of them. Those whose files are gone, or that were compared with nothing,
    are not among them: nothing is trained anew for it.
    """
    wanted = deployment.spec.evaluation.origins - 1
    own = model_spec(deployment.spec)
    found: dict[str, list[DayEntropy]] = {}
    for path in sorted(deployment.paths.retrains(RELEASE_FILE), reverse=True):
        if len(found) >= wanted:
            break
        if path.parent.name >= day:
            continue
        content = read_json(path)
        days = compared_days(content)
        if content.get(MODEL_SPEC) == own and days:
            found[path.parent.name] = days
    return found


def compared_days(content: Mapping[str, Any]) -> "list[DayEntropy]":
    """The days of a recorded comparison on which both models were scored; none in files of earlier versions."""
    return [day for day in recorded_days(content) if day.relative is not None]


def recorded_days(content: Mapping[str, Any]) -> "list[DayEntropy]":
    """The days of a recorded comparison, whether there was another model or not."""
    from ctr_pipeline.evaluation.daily_entropy import DayEntropy

    return [DayEntropy.from_json(day) for day in content.get("days", ())]


def decay_of_champion(deployment: Deployment, held: ModelVersion) -> "dict[str, Decay | None]":
    """By task whether the champion ``held`` is still as good as on the test days of its own promotion.

    Everything follows from the files of the retrains: its own has the days of its promotion, those that were compared with it since
    have the later ones. A day counts once, as the newest retrain tested it, when most of its outcomes had arrived. None
    where its own file is gone or has no days, or no later day was tested yet.
    """
    from ctr_pipeline.evaluation.decay import DailyScore, decay_of

    spec, own = deployment.spec, read_json(Path(held.tags.get("folder", "")) / RELEASE_FILE)
    reference = recorded_days(own) if str(own.get("version")) == held.version else []
    last = max((day.day for day in reference), default="")
    later: dict[tuple[str, str], DayEntropy] = {}
    for path in sorted(deployment.paths.retrains(RELEASE_FILE)):
        content = read_json(path)
        if str(content.get("champion_before")) == held.version:
            later |= {(day.task, day.day): day for day in compared_days(content) if day.day > last}
    found: dict[str, Decay | None] = {}
    for task in (task.name for task in spec.tasks):
        promised = [DailyScore(day=day.day, ne=day.ne, error=day.error) for day in reference if day.task == task]
        served = [
            DailyScore(day=day, ne=of.reference_ne, error=of.reference_error)
            for (name, day), of in sorted(later.items())
            if name == task and of.reference_ne is not None and of.reference_error is not None
        ]
        found[task] = decay_of(promised, served, tolerance=spec.quality.max_ne_regression)
    return found
