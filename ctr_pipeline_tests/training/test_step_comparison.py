"""A sound training does what it declares at each stage; what is changed at one stage is seen there and nowhere before."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.gradients.triage.evidence import RunEvidence
from ctr_pipeline.gradients.triage.hypothesis import Triage
from ctr_pipeline.gradients.triage.verdict import triage_finding
from ctr_pipeline.training import update_comparison
from ctr_pipeline.training.drilling.drilled_run import prepare_drill
from ctr_pipeline.training.triaging import triage_of


def triaged(folder: Path, seed: int = 5, **changed: Any) -> Triage:
    fault = Fault(name="own", family="own", symptom="", cause="", fix="", **changed)
    return triage_of(RunEvidence(), prepare_drill(fault, seed, folder).build)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("preset", ["small", "ads", "conversion"])
def test_a_sound_training_does_what_it_declares(preset: str, precision: str, tmp_path: Path) -> None:
    found = triaged(tmp_path, model={"preset": preset}, training={"precision": precision})
    assert "the declared training" in found.looked_at
    assert found.differing == ()
    assert found.unknown


@pytest.mark.parametrize(
    "training",
    [
        {"balance": {"kind": "uncertainty"}}, {"balance": {"kind": "dwa"}}, {"balance": {"kind": "gradient"}},
        {"balance": {"kind": "static", "normalise": True}}, {"label_smoothing": 0.05}, {"clip_norm": 0.05}, {"batch_size": 64},
    ],
    ids=str,
)  # fmt: skip
def test_so_does_one_with_other_settings(training: dict[str, Any], tmp_path: Path) -> None:
    assert triaged(tmp_path, training=training, with_list=True).differing == ()


def of_model(change: Callable[[nn.Module], Any]) -> dict[str, Any]:
    return {"inject": lambda training, _: change(training.model)}


def of_step(place: int, change: Callable[[Any], None], *, after: bool = False) -> dict[str, Any]:
    """A hook before or after the updates of an optimizer."""

    def inject(training: Any, _: np.random.Generator) -> None:
        optimizer = training.optimizers[place]
        register = optimizer.register_step_post_hook if after else optimizer.register_step_pre_hook
        register(lambda *__: change(training))

    return {"inject": inject}


def dense(change: Callable[[torch.Tensor], Any]) -> Callable[[Any], None]:
    def run(training: Any) -> None:
        with torch.no_grad():
            for parameter in training.model.tower.parameters():
                change(parameter)

    return run


def shifted(batches: Iterator[Any], _: int, __: np.random.Generator) -> Iterator[Any]:
    return (replace(batch, ids=batch.ids.roll(1, 0)) for batch in batches)


def fewer(batches: Iterator[Any], _: int, __: np.random.Generator) -> Iterator[Any]:
    return (batch.each(lambda t: t[: len(t) // 2]) for batch in batches)


def wrapped(name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> dict[str, Any]:
    def inject(training: Any, _: np.random.Generator) -> None:
        setattr(training.objectives, name, change(getattr(training.objectives, name)))

    return {"inject": inject}


def mistaken_when_scoring(model: nn.Module) -> None:
    model.tower.register_forward_hook(lambda m, _, hidden: hidden if m.training else hidden * 0.5)


def labels_exchanged(batches: Iterator[Any], _: int, __: np.random.Generator) -> Iterator[Any]:
    return (replace(batch, labels=batch.labels.flip(1)) for batch in batches)


def features_exchanged(training: Any, _: np.random.Generator) -> None:
    inner = training.model.encode
    training.model.encode = lambda numeric, ids, *rest: inner(numeric.flip(1), ids, *rest)


def other_rows_read(model: nn.Module) -> None:
    table = next(module for module in model.modules() if isinstance(module, nn.Embedding))
    table.register_forward_pre_hook(lambda _, given: (given[0] // 4,))


def ids_in_four_bits(model: nn.Module) -> None:
    for table in model.embeddings.tables.values():
        table.register_forward_pre_hook(lambda _, given: (torch.cat([given[0][:, :1] & 15, given[0][:, 1:]], dim=1),))


def feature_detached(model: nn.Module) -> None:
    for table in model.embeddings.tables.values():
        table.register_forward_hook(lambda _, __, rows: torch.cat([rows[:, :1].detach(), rows[:, 1:]], dim=1))


def buffer_moved(training: Any) -> None:
    training.model.numeric.mean.add_(0.01)


def rows_limited(model: nn.Module) -> None:
    for table in model.embeddings.tables.values():
        table.table.max_norm = 0.05


def weights_written(model: nn.Module) -> None:
    def write(*_: Any) -> None:
        with torch.no_grad():
            model.head.weight.mul_(0.999)

    model.tower.register_forward_hook(write)


def another_state(training: Any, _: np.random.Generator) -> None:
    for state in training.optimizers[1].state.values():
        state["accumulated"].fill_(100.0)


def halved_state(training: Any, _: np.random.Generator) -> None:
    def halve(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for state in optimizer.state.values():
            state["exp_avg"].mul_(0.5)

    training.optimizers[0].register_step_post_hook(halve)


def never(training: Any, _: np.random.Generator) -> None:
    training.optimizers[0].step = lambda *_: None


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "ids of the row before": ({"batches": shifted}, "batches", "feature_permuted"),
    "half of each batch": ({"batches": fewer}, "batches", "batch_differs"),
    "another start": (of_model(lambda m: m.head.weight.data.copy_(m.head.weight.data.flip(1).clone())), "initial", "initial_differs"),
    "squared hidden units": (of_model(lambda m: m.tower.register_forward_hook(lambda _, __, h: h * h)), "forward", "forward_differs"),
    "a weight for a class": (wrapped("task_sums", lambda inner: lambda z, y, w, *r: inner(z, y, w * (1 + (y == 1)), *r)), "loss", "class_weights"),
    "another root": (wrapped("task_sums", lambda inner: lambda z, y, w, *r: inner(z * z.abs().sqrt(), y, w, *r)), "loss", "wrong_loss"),
    "a hook at a weight": (of_model(lambda m: m.head.weight.register_hook(lambda g: g + 0.1)), "gradients", "gradient_changed"),
    "noise before the update": (of_step(0, dense(lambda p: p.grad.add_(torch.rand_like(p) * p.grad.abs().max()))), "received", "gradient_changed"),
    "a smaller step": (of_step(0, dense(lambda p: p.mul_(0.9999)), after=True), "update", "weights_overwritten"),
    "labels of the other task": ({"batches": labels_exchanged}, "batches", "mask_inverted"),
    "columns in another order": ({"inject": features_exchanged}, "forward", "feature_permuted"),
    "other rows of a table": (of_model(other_rows_read), "forward", "wrong_offsets"),
    "other units when scoring": (of_model(mistaken_when_scoring), "scoring", "scoring_differs"),
    "a closed gate": (of_model(lambda m: m.tower.register_forward_hook(lambda _, __, h: h * 1e-6)), "forward", "detached_tower"),
    "ids in four bits": (of_model(ids_in_four_bits), "forward", "hash_clip"),
    "logits above 0 alone": (of_model(lambda m: m.head.register_forward_hook(lambda _, __, z: z.relu())), "forward", "bounded_logits"),
    "rows limited at each lookup": (of_model(rows_limited), "initial", "weights_overwritten"),
    "weights written by the forward pass": (of_model(weights_written), "forward", "weights_overwritten"),
    "the state of another run": ({"inject": another_state}, "initial", "optimizer_state_differs"),
    "a state that is halved": ({"inject": halved_state}, "update", "optimizer_state_differs"),
    "a part that is multiplied by 0": (of_model(lambda m: m.wide.register_forward_hook(lambda _, __, z: z * 0)), "forward", "detached_tower"),
    "logits between two bounds": (of_model(lambda m: m.head.register_forward_hook(lambda _, __, z: 3 * torch.tanh(z / 3))), "forward", "bounded_logits"),
    "a feature that is detached": (of_model(feature_detached), "gradients", "detached_tower"),
    "a buffer that moves": (of_step(0, buffer_moved), "forward", "weights_overwritten"),
    "rounded gradients": (of_step(0, dense(lambda p: p.grad.copy_(p.grad.bfloat16()))), "received", "gradient_changed"),
    "nothing from the tower when scoring": (of_model(lambda m: m.tower.register_forward_hook(lambda m, _, h: h if m.training else h * 0)), "scoring", "scoring_differs"),
    "no step": ({"inject": never}, "update", "update_skipped"),
}  # fmt: skip


def rows_of_tables(training: Any) -> None:
    with torch.no_grad():
        for table in training.model.embeddings.tables.values():
            gradient = table.table.weight.grad
            rows = gradient.coalesce().indices()[0]
            table.table.weight[rows] += 0.3 * torch.randn(len(rows), table.width)


def test_of_a_large_table_the_rows_that_a_step_read_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_comparison, "LARGE", 0)
    assert triaged(tmp_path / "sound").differing == ()
    found = triaged(tmp_path / "moved", **of_step(1, rows_of_tables, after=True))
    assert found.differing[0] == "update"
    assert found.top is not None
    assert (found.top.cause, str(found.top.location).endswith("table.weight")) == ("weights_overwritten", True)


@pytest.mark.parametrize("name", FAULTS)
def test_a_change_is_seen_at_its_stage(name: str, tmp_path: Path) -> None:
    change, stage, cause = FAULTS[name]
    found = triaged(tmp_path, **change)
    assert found.differing[0] == stage
    assert found.top is not None
    assert found.top.cause == cause
    assert triage_finding(found).finding.severity == "error"
