"""What the forward pass of an untrained model says of causes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.ranker_contracts import INDEPENDENT_ROWS
from ctr_pipeline.gradients.adapters.rehearsal import BuiltTraining, kept_buffers, rehearse
from ctr_pipeline.gradients.contracts.batch_tensors import tensors_of
from ctr_pipeline.gradients.contracts.initial_state import live_units_outcome
from ctr_pipeline.gradients.contracts.kept_state import kept_generators
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.sample_independence import check_cross_sample
from ctr_pipeline.gradients.contracts.starting_prediction import starting_prediction_outcome
from ctr_pipeline.gradients.contracts.training_mode import evaluation_outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup
from ctr_pipeline.gradients.core.activations import observed_activations
from ctr_pipeline.gradients.triage.contract_rules import contract_clues
from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence

ENLARGED = 1000.0
"""Factor on the weights of the heads under which no logit of a sound model stays near 0."""


GROWN = 30.0
"""Factor by which logits without a limit grow at least when the weights of the heads are enlarged once more."""


def forward_clues(built: BuiltTraining, batch: BatchView) -> Iterator[Clue]:
    """Clues from the forward pass on ``batch``; the model is left as it was."""
    if (found := _nonfinite(built, batch)) is not None:
        yield found
        return
    few = batch.each(lambda tensor: tensor[:INDEPENDENT_ROWS])
    outcomes = list(_outcomes(built, batch, few))
    yield from contract_clues(RunEvidence(outcomes=[found.to_dict() for found in outcomes]))
    with kept_generators(built.model), kept_buffers(built.model), torch.no_grad():
        built.model.eval()
        first = built.forward(few)
        if torch.equal(first, built.forward(few)):
            yield from _influence_clues(built, few, first)
        yield from _bound_clues(built, few)


def _nonfinite(built: BuiltTraining, batch: BatchView) -> Clue | None:
    """The first part of an untrained model whose output is not finite while its weights and the rows are."""
    model, found = built.model, list[str]()

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if any(t.is_floating_point() and not bool(torch.isfinite(t).all()) for t in tensors_of(output)):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        with kept_generators(model), kept_buffers(model), torch.no_grad():
            logits = built.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    if bool(torch.isfinite(logits).all()):
        return None
    if any(not bool(torch.isfinite(p).all()) for p in [*model.parameters(), *model.buffers()] if p.is_floating_point()):
        return Clue(cause="nonfinite_weight", weight=0.5, text="logits are not finite, and some weights neither")
    where = next(iter(found), "the forward pass")
    text = f"the output of {where} is not finite before the first step; rows and weights are"
    return Clue(cause="log_of_negative", weight=0.9, text=text, location=where, separating=True)


def _outcomes(built: BuiltTraining, batch: BatchView, few: BatchView) -> Iterator[Outcome]:
    """Contracts of the forward pass that tell a cause by themselves."""
    model = built.model
    yield from (o for o in rehearse(built, batch).outcomes if o.name in ("own_rows", "table_rows"))
    with kept_generators(model), kept_buffers(model), torch.no_grad():
        setup = TrainingSetup(model=model, batch=few, forward=lambda _, b: built.forward(b), loss=lambda z, _: z.sum())
        limit = 1e-5 if few.numeric.device.type == "cpu" and not built.half else 1e-3
        yield check_cross_sample(setup, limit=limit, double=False)
        model.eval()
        with observed_activations(model) as activations:
            logits = built.forward(few)
        yield evaluation_outcome(logits, built.forward(few))
        yield live_units_outcome(activations)
        yield starting_prediction_outcome(logits, built.rates, built.layout.tasks)


def _influence_clues(built: BuiltTraining, few: BatchView, logits: Tensor) -> Iterator[Clue]:
    """Features whose values can be exchanged between rows without any logit moving; call in evaluation mode."""
    layout, half = built.layout, len(few.labels) // 2
    still, looked = [], 0
    parts = [(name, "numeric", place) for name, place in layout.number_places.items()]
    parts += [(c.name, "ids", place) for c, place in zip(layout.ids, layout.id_places, strict=True)]
    for name, array, place in parts:
        values = getattr(few, array).clone()
        moved = values[:, place].roll(half, 0)
        same = (
            torch.equal(moved.nan_to_num(), values[:, place].nan_to_num())
            if array == "numeric"
            else torch.equal(moved, values[:, place])
        )
        if same:
            continue
        looked += 1
        values[:, place] = moved
        changed = replace(few, numeric=values) if array == "numeric" else replace(few, ids=values)
        if torch.equal(built.forward(changed), logits):
            still.append(name)
    # Where no feature moves a logit it is none of them.
    if still and len(still) < looked:
        text = f"no logit moves when the values of feature {still[0]} are exchanged between rows" + (
            f"; nor with {len(still) - 1} others" if len(still) > 1 else ""
        )
        yield Clue(cause="feature_ignored", weight=0.8, text=text, location=still[0], separating=True)


def _bound_clues(built: BuiltTraining, few: BatchView) -> Iterator[Clue]:
    """Logits that stay near 0 whatever the heads' weights are; call in evaluation mode."""
    weight = built.model.head.weight
    if few.position is not None:
        # There a model of examination multiplies probabilities by 1; at others they have a limit, as they should.
        few = replace(few, position=torch.ones_like(few.position))
    own = weight.detach().clone()
    if not float(own.abs().max()):
        return
    weight.mul_(ENLARGED / max(float(own.abs().max()), 1e-12))
    logits = built.forward(few)[:, 0].double()
    weight.mul_(ENLARGED)
    larger = built.forward(few)[:, 0].double()
    weight.copy_(own)
    low, high = float(logits.min()), float(logits.max())
    if not bool(torch.isfinite(logits).all()) or high - low < 1e-9 or max(abs(low), abs(high)) > 30:
        return
    # What is small, and grows with the weights, has no limit.
    if float(larger.max() - larger.min()) > GROWN * (high - low):
        return
    text = f"with weights of the heads of up to {ENLARGED:g} the logits lie between {low:.4g} and {high:.4g}"
    if low >= 0 and high <= 1:
        yield Clue(cause="double_sigmoid", weight=0.9, text=f"{text}: the model gives probabilities", separating=True)
    else:
        yield Clue(cause="bounded_logits", weight=0.85, text=text, separating=True)
