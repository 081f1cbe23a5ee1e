"""Builds what a training step needs, from a job and a layout: for the loop, and for the replay of a stopped step."""

from collections.abc import Sequence

import torch

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients import Detector
from ctr_pipeline.gradients.adapters.inputs import InputCheck
from ctr_pipeline.gradients.core.monitor import GradientMonitor
from ctr_pipeline.losses.balances import TaskBalance
from ctr_pipeline.losses.multi_task import SettledDelays, TaskObjectives
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.ranker.sharing import shared_parameters
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.job_spec import TrainingError, TrainingJob
from ctr_pipeline.training.last_good import LastGood
from ctr_pipeline.training.optimizers import RowwiseAdagrad, dense_optimizer
from ctr_pipeline.training.plan import TrainingPlan
from ctr_pipeline.training.precision import Precision
from ctr_pipeline.training.step import StepState


def build_objectives(
    job: TrainingJob, layout: Layout, settled: SettledDelays | None, rates: Sequence[float]
) -> TaskObjectives:
    """The tasks' objectives.

    Args:
        job: The job.
        layout: The packed layout.
        settled: How long the outcomes of settled training labels took; None where that was not packed.
        rates: [T] base rates of the training labels; needed where labels are smoothed.

    Raises:
        TrainingError: The job names a task that the layout lacks.
    """
    for key, named_tasks in (("task_weights", job.task_weights), ("objectives", job.objectives)):
        if unknown := set(named_tasks) - set(layout.tasks):
            raise TrainingError(f"{key} names {', '.join(sorted(unknown))}; tasks: {layout.tasks}")
    sections = [job.objectives.get(task, Binary()) for task in layout.tasks]
    return TaskObjectives(sections, settled, job.training.label_smoothing, rates)


def build_state(
    job: TrainingJob,
    layout: Layout,
    plan: TrainingPlan,
    group: ProcessGroup,
    objectives: TaskObjectives,
    starting_rates: Sequence[float] = (),
    detectors: Sequence[Detector] | None = None,
    base_rates: Sequence[float] = (),
) -> StepState:
    """A new model with its optimizers, as before the first step.

    Args:
        job: The job.
        layout: The packed layout.
        plan: The settings that the job may leave open.
        group: The processes of the run.
        objectives: Those of :func:`build_objectives`.
        starting_rates: [T] rates from which the untrained model starts; empty where it will be overwritten.
        detectors: Objects that observe the run; by default one of each registered class.
        base_rates: [T] base rates of the training labels, where the balance of the tasks needs them.

    Raises:
        LossError: The balance of the tasks needs a library that is not installed.
    """
    settings = job.training
    dropout = {"dropout": plan.dropout, "embedding_dropout": plan.embedding_dropout}
    model = build_ranker(layout, job.model.model_copy(update=dropout), job.seed)
    if starting_rates:
        model.start_from_rates(starting_rates)
    model.to(group.device)
    named = list(model.named_parameters())
    tables = {f"{name}.weight" for name, module in model.named_modules() if getattr(module, "sparse", False)}
    dense = [(name, parameter) for name, parameter in named if name not in tables]
    optimizers: list[torch.optim.Optimizer] = [dense_optimizer(dense, plan.learning_rate, settings.weight_decay)]
    peaks = [plan.learning_rate]
    if tables:
        embeddings = [parameter for name, parameter in named if name in tables]
        optimizers.append(RowwiseAdagrad(embeddings, plan.embedding_learning_rate, settings.embedding_l2))
        peaks.append(plan.embedding_learning_rate)
    weights = [job.task_weights.get(task, 1.0) for task in layout.tasks]
    balance = TaskBalance(settings.balance, weights, base_rates, group.device)
    return StepState(
        model=model,
        named=named,
        layout=layout,
        inputs=InputCheck(layout),
        objectives=objectives,
        balance=balance,
        shared=list(shared_parameters(model).values()) if balance.reads_gradients else [],
        optimizers=optimizers,
        peaks=peaks,
        precision=Precision(settings.precision, group.device),
        group=group,
        monitor=GradientMonitor(
            model, settings.log_every, detectors, settings.steps_between_details, hidden=bool(model.tower.linears)
        ),
        last_good=LastGood(named, optimizers),
        clip_norm=settings.clip_norm,
    )
