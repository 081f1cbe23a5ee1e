"""What a stopped step says of causes by itself, on a machine that has nothing else of the run."""

from collections.abc import Iterator
from pathlib import Path

import torch

from ctr_pipeline.gradients.adapters.table_rows import rows_read
from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.label_rules import weight_clues
from ctr_pipeline.gradients.triage.loss_rules import loss_clues, task_weight_clues
from ctr_pipeline.gradients.triage.model_rules import coverage_clues, model_clues, setting_clues
from ctr_pipeline.gradients.triage.row_sample import rows_of
from ctr_pipeline.ranker.embeddings import FusedTable
from ctr_pipeline.ranker.initialisation import EMBEDDING_LENGTH
from ctr_pipeline.spec.balancing import StaticBalance
from ctr_pipeline.training.assembly import build_objectives
from ctr_pipeline.training.step_bundle import StepBundle, load_step

LARGE = 50.0
"""Times the size with which embeddings start that those of a sound training rarely reach."""


def bundle_clues(folder: Path) -> list[Clue]:
    """Clues from the step.pt of a failed step.

    Args:
        folder: Folder of the failed step.

    Raises:
        TrainingError: it holds none, or one of another version.
    """
    bundle = load_step(folder / "step.pt")
    return [*_state_clues(bundle), *_batch_clues(bundle), *_table_clues(bundle)]


def _state_clues(bundle: StepBundle) -> Iterator[Clue]:
    state, job, layout = bundle.state, bundle.job, bundle.layout
    yield from coverage_clues(state.model, state.optimizers)
    yield from setting_clues(state.optimizers)
    yield from model_clues(state.model)
    if job.training.balance == StaticBalance():
        declared_weights = torch.tensor([job.task_weights.get(task, 1.0) for task in layout.tasks])
        yield from task_weight_clues(state.loss_weights, declared_weights, layout.tasks)
    declared = build_objectives(job, layout, None, [0.0] * len(layout.tasks))
    batch = bundle.batches[0]
    if len(batch.labels) > 1 and not job.training.label_smoothing and batch.delays is None:
        yield from loss_clues(state.loss, declared, batch, state.loss_weights, layout.tasks)


def _batch_clues(bundle: StepBundle) -> Iterator[Clue]:
    batch, layout = bundle.batches[0], bundle.layout
    arrays = [tensor.numpy(force=True) for tensor in (batch.numeric, batch.ids, batch.labels, batch.weights)]
    rows = rows_of(layout, *arrays)
    yield from weight_clues(rows)
    size = torch.from_numpy(rows.numbers).abs()
    for at, name in enumerate(rows.number_names):
        known = size[:, at][~size[:, at].isnan()]
        if len(known) > 20 and float(known.median()) > 10:
            text = f"half of the values of feature {name} in the batch are {float(known.median()):.3g} or more deviations from their mean"
            yield Clue(cause="unnormalised_feature", weight=0.8, text=text, location=name)


def _table_clues(bundle: StepBundle) -> Iterator[Clue]:
    """Features whose rows of the batch are far larger than embeddings start, and than those of the other features."""
    model, layout = bundle.state.model, bundle.layout
    read = rows_read(model, [batch.ids for batch in bundle.batches])
    sizes: dict[str, float] = {}
    for name, table in model.embeddings.tables.items():
        assert isinstance(table, FusedTable)
        rows = read.get(f"embeddings.tables.{name}.table.weight", torch.zeros(0, dtype=torch.int64))
        for index, start in table.owned():
            own = rows[(rows >= start) & (rows < start + layout.ids[index].rows)]
            values = table.table.weight.detach()[own].double()
            if values.numel() and bool(torch.isfinite(values).all()):
                length = float(values.square().sum(dim=1).mean().sqrt())
                sizes[layout.ids[index].name] = length / EMBEDDING_LENGTH
    if not sizes:
        return
    worst = max(sizes, key=lambda feature: sizes[feature])
    others = sorted(sizes.values())
    middle = others[len(others) // 2]
    if sizes[worst] > LARGE and len(sizes) > 2 and sizes[worst] > 5 * middle:
        text = f"embeddings of feature {worst} are {sizes[worst]:.3g} times as long as embeddings start, those of most others {middle:.3g} times"
        yield Clue(cause="new_embedding_huge", weight=0.6, text=text, location=worst)
    elif sizes[worst] > LARGE:
        text = f"embeddings of feature {worst} are {sizes[worst]:.3g} times as long as embeddings start"
        yield Clue(cause="huge_lr", weight=0.4, text=text, location=worst)
