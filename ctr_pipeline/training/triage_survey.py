"""Measures a training that is built once more: its rows, its loss, its model, its optimizers and its first steps."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctr_pipeline.datasets import PackedDataset, PackedSplit
from ctr_pipeline.errors import UserError
from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.adapters.inputs import input_fault
from ctr_pipeline.gradients.adapters.ranker_contracts import profile
from ctr_pipeline.gradients.adapters.rehearsal import BuiltTraining, initial_tables
from ctr_pipeline.gradients.triage.batch_rules import batch_clues
from ctr_pipeline.gradients.triage.column_rules import column_clues
from ctr_pipeline.gradients.triage.contract_rules import contract_clues
from ctr_pipeline.gradients.triage.differential import COMPARED, at_stage, only_here
from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence
from ctr_pipeline.gradients.triage.feature_rules import feature_clues
from ctr_pipeline.gradients.triage.label_rules import label_clues, weight_clues
from ctr_pipeline.gradients.triage.left_behind import read_json_lines
from ctr_pipeline.gradients.triage.loss_rules import loss_clues, task_weight_clues
from ctr_pipeline.gradients.triage.model_rules import coverage_clues, initial_clues, model_clues, setting_clues
from ctr_pipeline.gradients.triage.profile_rules import profile_clues
from ctr_pipeline.gradients.triage.reference_rules import Profiled, reference_clues
from ctr_pipeline.gradients.triage.relation_rules import relation_clues, vocabulary_clues
from ctr_pipeline.gradients.triage.row_sample import ROWS, evenly_spread, late_rows, neighbouring_rows, spread_rows
from ctr_pipeline.ranker import load_ranker
from ctr_pipeline.ranker.initialisation import starting_at_zero
from ctr_pipeline.spec.balancing import StaticBalance
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training.assembly import build_objectives
from ctr_pipeline.training.dataloader import delays_of, gather, to_device
from ctr_pipeline.training.declared_training import DeclaredTraining
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.scoring import validate
from ctr_pipeline.training.step_comparison import StepComparison
from ctr_pipeline.training.step_recorder import StepRecorder
from ctr_pipeline.training.triage_forward import forward_clues
from ctr_pipeline.training.triage_steps import SMALL, STEPS, StepWatch, run_window

_log = logging.getLogger("ctr_pipeline.training")

MOST_ROWS = 2_000_000
"""Rows that are all looked at for a value that no model may see."""

REPEATED = 0.05
"""Share of neighbouring rows that repeat others, above which it is strange where trusted rows have a third of that."""

COMPARED_ROWS = 20_000
"""Rows in memory that are compared with those on disk, at most."""

LATE, MOST_VALIDATED = 4, 100_000
"""Steps before and after the end of an epoch that are watched, and rows of a validation up to which that is done."""

STORED_LIMIT = 1e-4
"""Largest difference of a normalised entropy that is noted from that of the stored model, relative to at least 1."""

BATCH = 512
"""Rows on which the loss and the model are looked at."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a survey found.

    Attributes:
        clues: All clues.
        looked_at: Names of what was looked at, beside the built training.
        losses: Losses of its first steps.
    """

    clues: list[Clue]
    looked_at: tuple[str, ...] = ()
    losses: tuple[float, ...] = ()


def survey(build: Callable[[Path], Trainer], folder: Path) -> Surveyed:
    """All clues of a training that can be built again.

    Args:
        build: Builds it, writing into the folder that it is given.
        folder: An empty folder for what the training writes.
    """
    clues, static, as_declared, declared = _before_first_step(build(folder / "survey"), folder)
    watched = build(folder / "steps")
    watch = StepWatch(watched, declared)
    stopped = run_window(watched, STEPS, watch)
    clues += watch.summary()
    if declared is not None and stopped is None:
        # What the first steps showed already counts once.
        seen = {(clue.cause, clue.stage) for clue in clues}
        late = _as_far_as(late_clues(build(folder / "late"), declared))
        clues += [clue for clue in late if (clue.cause, clue.stage) not in seen]
    # What the steps showed with the weights of the training says more.
    if declared is not None and not any(clue.stage == "forward" for clue in clues):
        clues += _as_far_as(perturbed_clues(build(folder / "perturbed"), declared))
    if declared is not None:
        static = list(only_here(static, as_declared, {clue.stage for clue in clues}))
    clues = [*static, *clues]
    if stopped is not None and stopped.cause.kind in ("parameter", "buffer", "optimizer_state"):
        text = stopped.cause.message
        clues.append(Clue(cause="nonfinite_weight", weight=0.6, text=text, location=stopped.cause.tensor))
    return Surveyed(clues, () if declared is None else (COMPARED,), tuple(watch.losses))


def late_clues(trainer: Trainer, declared: DeclaredTraining) -> Iterator[Clue]:
    """Clues from steps about the last end of an epoch, and from the model that is stored there.

    The weights are those of the start: what is looked at is the code that runs there.
    """
    split = trainer.dataset.splits["validation"]
    parameters = sum(p.numel() for p in trainer.model.parameters())
    if parameters > SMALL or len(split) > MOST_VALIDATED or trainer.steps <= STEPS + 2 * LATE:
        return
    left = min(LATE, trainer.steps_per_epoch)
    trainer.epoch = max(trainer.plan.epochs - 2, 0)
    trainer.batch = trainer.steps_per_epoch - left
    trainer.step = trainer.epoch * trainer.steps_per_epoch + trainer.batch
    watch = StepWatch(trainer, declared)
    stopped = run_window(trainer, trainer.step + left + LATE, watch)
    yield from (clue for clue in watch.clues if clue.stage)
    if stopped is None and len(split):
        yield from watch.evaluation(gather(split, np.arange(min(len(split), BATCH))))
    if stopped is None and trainer.files.model.is_file():
        yield from at_stage(stored_clues(trainer, declared), "scoring")


def perturbed_clues(trainer: Trainer, declared: DeclaredTraining) -> Iterator[Clue]:
    """Clues from a forward pass on training rows with weights that are not 0."""
    if sum(p.numel() for p in trainer.model.parameters()) > SMALL or len(trainer.train) < 2:
        return
    recorder = StepRecorder(trainer.state)
    try:
        chosen = evenly_spread(len(trainer.train), BATCH)
        batch = gather(trainer.train, chosen)
        if input_fault(batch, trainer.dataset.layout, 0) is None:
            found = StepComparison(declared, recorder, trainer.train).perturbed(batch)
            yield from at_stage(found, "forward")
    finally:
        recorder.close()


def stored_clues(trainer: Trainer, declared: DeclaredTraining) -> Iterator[Clue]:
    """Clues from the stored model beside what was noted of it on the validation."""
    lines = read_json_lines(trainer.files.validation)
    if not lines or lines[-1]["best_epoch"] != lines[-1]["epoch"]:
        return
    layout = declared.trainer.dataset.layout
    model = load_ranker(trainer.files.model, layout, declared.trainer.job.model)
    with torch.no_grad():
        split = declared.trainer.dataset.splits["validation"]
        _, entropies = validate(model, declared.state.objectives, split, declared.state.group, lambda: None)
    for task, found in zip(layout.tasks, entropies, strict=True):
        noted = lines[-1].get(f"ne_{task}")
        if found is None or noted is None or abs(found - noted) <= STORED_LIMIT * max(abs(found), 1.0):
            continue
        text = f"the normalised entropy of task {task} was noted as {noted:.6g} when the model was stored, and is {found:.6g} of the stored model"
        yield Clue(cause="scoring_differs", weight=0.76, text=text, location=task)
        return


def _before_first_step(
    trainer: Trainer, folder: Path
) -> tuple[list[Clue], list[Clue], list[Clue], DeclaredTraining | None]:
    """Clues from rows, those from loss, model and optimizers, the same of the declared training, and that.

    In a function of its own: the model is gone before another one is built.
    """
    declared = _declared(trainer, folder / "declared")
    clues, static = list(_as_far_as(row_clues(trainer))), list(_as_far_as(static_clues(trainer)))
    if declared is None:
        return clues, static, [], None
    clues += _as_far_as(at_stage(row_differences(trainer, declared), "rows"))
    return clues, static, list(_as_far_as(static_clues(declared.trainer))), declared


def _declared(trainer: Trainer, folder: Path) -> DeclaredTraining | None:
    """The training that the job declares; None where it cannot be built, and nothing is compared with it."""
    try:
        return DeclaredTraining.of(trainer.job, folder)
    except Exception:
        _log.exception("the declared training cannot be built")
        return None


def row_differences(trainer: Trainer, declared: DeclaredTraining) -> Iterator[Clue]:
    """Clues from the rows that a training has in memory beside those on disk."""
    own, there = trainer.train, declared.rows
    layout = declared.trainer.dataset.layout
    names = [column.name for column in layout.numeric], [column.name for column in layout.id_columns]
    if len(own) != len(there):
        text = f"the training has {len(own)} rows, and {len(there)} are on disk"
        cause = "duplicate_rows" if len(own) > len(there) else "rows_differ"
        yield Clue(cause=cause, weight=0.8, text=text)
        return
    chosen = evenly_spread(len(own), COMPARED_ROWS)
    yield from batch_clues(gather(own, chosen), gather(there, chosen), *names, layout.tasks)


def _as_far_as(clues: Iterator[Clue]) -> Iterator[Clue]:
    """The clues up to where looking fails: what is looked at is broken, in any way."""
    try:
        yield from clues
    except Exception:
        _log.exception("a part of the survey failed")


def row_clues(trainer: Trainer) -> Iterator[Clue]:
    """Clues from the training rows, beside those of validation."""
    layout, train = trainer.dataset.layout, trainer.train
    yield from contract_clues(
        RunEvidence(
            outcomes=[found.to_dict() for found in profile(train, layout, trainer.dataset.splits["validation"])]
        )
    )
    lowest, highest = layout.id_rows
    ids, numbers = train.ids[:MOST_ROWS], train.numeric[:MOST_ROWS]
    if ids.size and bool(((ids < lowest) | (ids > highest)).any()):
        at, column = (int(v) for v in np.argwhere((ids < lowest) | (ids > highest))[0])
        name = layout.id_columns[column].name
        text = f"feature {name} has id {int(ids[at, column])} in training row {at}, and its table {layout.id_columns[column].rows} rows"
        yield Clue(cause="id_out_of_range", weight=0.97, text=text, location=name, separating=True)
    if numbers.size and bool(np.isinf(numbers).any()):
        at, column = (int(v) for v in np.argwhere(np.isinf(numbers))[0])
        name = layout.numeric[column].name
        text = f"feature {name} is {numbers[at, column]} in training row {at}"
        yield Clue(cause="infinite_feature", weight=0.97, text=text, location=name, separating=True)
    sample = spread_rows(train, layout)
    yield from column_clues(np.asarray(train.numeric[:: max(len(train) // ROWS, 1)][:ROWS]), layout)
    yield from weight_clues(sample)
    yield from _repeated_rows(trainer)
    trusted = trainer.dataset.splits["validation"]
    if len(trusted) < 500:
        return
    reference = spread_rows(trusted, layout)
    yield from feature_clues(sample, reference)
    yield from relation_clues(sample)
    yield from vocabulary_clues(sample)
    neighbours = neighbouring_rows(train, layout)
    yield from label_clues(sample, neighbours, reference, late_rows(train, layout))
    yield from profile_clues(sample, neighbours, reference)
    yield from last_good_clues(trainer)


def last_good_clues(trainer: Trainer) -> Iterator[Clue]:
    """Clues from the training rows beside those of the last good run, where these are still there."""
    steps = trainer.job.last_good_steps
    file = None if steps is None else steps.with_name("job.json")
    if file is None or not file.is_file():
        return
    try:
        good = PackedDataset.open(TrainingJob.load(file).dataset)
    except UserError:
        # Packed again since, or of an earlier version.
        return
    yield from reference_clues(
        _profiled(trainer.train, trainer.dataset.layout), _profiled(good.splits["train"], good.layout)
    )


def _profiled(split: PackedSplit, layout: Layout) -> Profiled:
    chosen = evenly_spread(len(split), ROWS)
    return Profiled(rows=spread_rows(split, layout), raw=np.take(split.numeric, chosen, axis=0).astype(np.float64))


def _repeated_rows(trainer: Trainer) -> Iterator[Clue]:
    """Rows that are there more than once, far more often than among those of validation."""

    def share(name: str) -> float:
        split = trainer.train if name == "train" else trainer.dataset.splits[name]
        most = min(5000, len(trainer.dataset.splits["validation"]), len(trainer.train))
        few = gather(split, np.arange(most))
        content = torch.cat([few.numeric.double().nan_to_num(1e300), few.ids.double(), few.labels.double()], dim=1)
        return 1 - len(torch.unique(content, dim=0)) / most if most else 0.0

    own, there = share("train"), share("validation")
    if own > REPEATED and own > 3 * there:
        text = f"{own:.0%} of neighbouring training rows repeat others, and {there:.0%} of the trusted ones"
        many = own - there > 0.2
        yield Clue(cause="duplicate_rows", weight=0.95 if many else 0.78, text=text, separating=many)


def static_clues(trainer: Trainer) -> Iterator[Clue]:
    """Clues from the loss, the model and the optimizers, on some rows and before any step."""
    state, layout, model = trainer.state, trainer.dataset.layout, trainer.model
    model.train()
    yield from coverage_clues(model, trainer.optimizers)
    yield from setting_clues(trainer.optimizers)
    yield from model_clues(model)
    yield from initial_clues(
        model, *initial_tables(model, layout), zeros=("wide", "position", *starting_at_zero(model))
    )
    chosen = evenly_spread(len(trainer.train), BATCH)
    batch = to_device(gather(trainer.train, chosen), trainer.group.device)
    tasks = layout.tasks
    if trainer.job.training.balance == StaticBalance():
        weights = torch.tensor([trainer.job.task_weights.get(task, 1.0) for task in tasks])
        yield from task_weight_clues(state.loss_weights.cpu(), weights, tasks)
    rates = trainer._rates
    declared = build_objectives(trainer.job, layout, delays_of(trainer.train), rates)
    # Weights of the tasks that are not the declared ones are a cause of their own.
    yield from loss_clues(state.loss, declared, batch.each(lambda t: t.cpu()), state.loss_weights.cpu(), tasks)
    if input_fault(batch, layout, 0) is not None or len(batch.labels) < 2:
        return
    sections = [trainer.job.objectives.get(task, Binary()) for task in tasks]
    built = BuiltTraining(
        model=model, layout=layout, optimizers=trainer.optimizers, objectives=trainer.objectives, sections=sections,
        loss_weights=state.loss_weights, rates=trainer.objectives.starting_rates(trainer.train.labels),
        forward=state.forward, smoothing=trainer.job.training.label_smoothing, base_rates=rates,
        weigh=state.weigh, scale=trainer.precision.factor, half=trainer.precision.name != "fp32",
    )  # fmt: skip
    yield from _bias_clues(trainer, built.rates)
    yield from forward_clues(built, batch)


def _bias_clues(trainer: Trainer, rates: Sequence[float]) -> Iterator[Clue]:
    """The head's bias beside the one from which a model starts at the base rates."""
    bias = trainer.model.head.bias
    own = bias.detach().clone()
    trainer.model.start_from_rates(rates)
    apart, expected = (own - bias.detach()).abs(), bias.detach().clone()
    with torch.no_grad():
        bias.copy_(own)
    if float(apart.max()) > 1:
        at = int(apart.argmax())
        task = trainer.dataset.layout.tasks[at]
        text = f"the bias of the head for task {task} is {float(own[at]):.3g}, and {float(expected[at]):.3g} by its base rate"
        yield Clue(cause="no_base_rate", weight=0.85, text=text, location=task, separating=True)
