"""A step changes nothing but gradients, repeats to the last bit, and an update that must not stand is taken back."""

import math
from dataclasses import replace

import pytest
import torch

from ctr_pipeline.training import optimizers
from ctr_pipeline.training.checkpoint import generator_state
from ctr_pipeline.training.dataloader import epoch_order, gather
from ctr_pipeline.training.last_good import LastGood
from ctr_pipeline.training.step import StepPosition, take_step, update
from ctr_pipeline.training.step_bundle import load_step
from ctr_pipeline.training.stopping import Stopped


def batch_of(trainer, rows: int = 100, at: int = 0):
    order = epoch_order(len(trainer.train), trainer.job.seed, 0)
    return gather(trainer.train, order[at : at + rows])


def position(step: int) -> StepPosition:
    return StepPosition(step=step, epoch=0, rows=100, rate_factor=1.0)


def weights(trainer) -> dict[str, torch.Tensor]:
    """Parameters, buffers and the tensors of the optimizers, copied."""
    found = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for place, optimizer in enumerate(trainer.optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            found |= {f"{place}.{number}.{key}": value.clone() for key, value in state.items()}
    return found


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def gradients(trainer) -> list[torch.Tensor]:
    return [
        p.grad.coalesce().values() if p.grad.is_sparse else p.grad for _, p in trainer.state.named if p.grad is not None
    ]


def test_a_step_changes_no_weight_and_repeats_to_the_last_bit(job, make_trainer) -> None:
    trainer = make_trainer(job)
    before, batch = weights(trainer), batch_of(trainer)
    first = take_step(trainer.state, batch, position(0))
    kept = [gradient.clone() for gradient in gradients(trainer)]
    assert equal(weights(trainer), before)
    assert first.decision == "update"
    # Dropout has moved the generator on: the state of the step's start brings its masks back.
    torch.set_rng_state(first.random["torch"])
    again = take_step(trainer.state, batch, position(0))
    assert again.record == first.record
    assert all(torch.equal(a, b) for a, b in zip(gradients(trainer), kept, strict=True))
    assert torch.equal(again.random["torch"], first.random["torch"])
    assert update(trainer.state, again) is None
    assert not equal(weights(trainer), before)


@pytest.mark.parametrize("steps", [0, 3])
def test_an_update_can_be_taken_back_to_the_last_bit(job, make_trainer, steps: int) -> None:
    trainer = make_trainer(job)
    trainer.state.last_good.always = True
    for step in range(steps):
        assert update(trainer.state, take_step(trainer.state, batch_of(trainer, at=100 * step), position(step))) is None
    before = weights(trainer)
    taken = take_step(trainer.state, batch_of(trainer, at=500), position(steps))
    assert update(trainer.state, taken) is None
    after = weights(trainer)
    assert not equal(after, before)
    trainer.state.last_good.restore()
    assert equal(weights(trainer), before)
    # From there the same step leads to the same place.
    torch.set_rng_state(taken.random["torch"])
    taken = take_step(trainer.state, batch_of(trainer, at=500), position(steps))
    assert update(trainer.state, taken) is None
    assert equal(weights(trainer), after)


@pytest.mark.parametrize(
    "make",
    [
        lambda dense, table: [torch.optim.SGD(dense, lr=0.1, momentum=0.9), torch.optim.SparseAdam(table, lr=0.1)],
        lambda dense, table: [torch.optim.Adagrad([*dense, *table], lr=0.1)],
        lambda dense, table: [torch.optim.RMSprop(dense, lr=0.1), torch.optim.SGD(table, lr=0.1)],
    ],
)
def test_any_optimizer_can_be_taken_back(make) -> None:
    torch.manual_seed(1)
    table, linear = torch.nn.Embedding(50, 4, sparse=True), torch.nn.Linear(4, 1)
    named = [("table", table.weight), ("weight", linear.weight), ("bias", linear.bias)]
    made = make(list(linear.parameters()), [table.weight])
    last_good = LastGood(named, made)

    def state() -> list[torch.Tensor]:
        states = [value for optimizer in made for one in optimizer.state.values() for value in one.values()]
        return [p.detach().clone() for _, p in named] + [v.clone() for v in states if isinstance(v, torch.Tensor)]

    for _ in range(3):
        before = state()
        for optimizer in made:
            optimizer.zero_grad()
        linear(table(torch.randint(0, 50, (8,)))).square().sum().backward()
        kept = [parameter.grad.clone() for _, parameter in named]
        last_good.keep()
        for optimizer in made:
            optimizer.step()
        changed = {change.name: change for change in last_good.updates()}
        assert set(changed) == {"table", "weight"}
        assert not torch.equal(changed["table"].before, changed["table"].after)
        assert torch.equal(changed["table"].after, table.weight.detach()[changed["table"].rows])
        after = state()
        last_good.restore()
        restored = state()
        assert len(restored) == len(before)
        assert all(torch.equal(a, b) for a, b in zip(restored, before, strict=True))
        # From here the same step leads to the same place; some optimizers have changed the gradient.
        for (_, parameter), gradient in zip(named, kept, strict=True):
            parameter.grad = gradient
        for optimizer in made:
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(state(), after, strict=True))


def test_an_update_that_writes_nan_stops_at_its_own_step_with_the_weights_before_it(
    job, make_trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A row whose embedding was dropped has a gradient of 0: without an epsilon, its first update is 0 / 0.
    monkeypatch.setattr(optimizers, "EPSILON", 0.0)
    trainer = make_trainer(job)
    states, inner = [], trainer._train_step

    def watched(batch):
        states.append((weights(trainer), batch))
        return inner(batch)

    trainer._train_step = watched
    with pytest.raises(Stopped) as caught:
        trainer.run(False)
    before, batch = states[-1]
    assert equal(weights(trainer), before)
    cause = caught.value.cause
    assert (cause.kind, cause.step) == ("update", len(states) - 1)
    column = [column.name for column in trainer.dataset.layout.ids].index(cause.feature)
    assert cause.row in batch.ids[:, column].tolist()
    assert f"the embedding of feature {cause.feature}, vocabulary row {cause.row}, was set to nan" in cause.message
    assert caught.value.health.numbers["nonfinite"] == 1
    kept = load_step(job.output / "failed_step" / "step.pt").state.model.state_dict()
    tower = {name: value for name, value in kept.items() if "table" not in name}
    assert all(torch.equal(value, before[name]) for name, value in tower.items())


def test_an_update_of_a_dense_weight_that_overflows_is_named(job, make_trainer) -> None:
    trainer = make_trainer(job)
    trainer.optimizers[0].param_groups[0]["weight_decay"] = math.inf
    assert trainer.state.last_good.is_needed()
    before = weights(trainer)
    cause = update(trainer.state, take_step(trainer.state, batch_of(trainer), position(0)))
    assert cause is not None
    assert (cause.kind, cause.feature) == ("update", None)
    assert cause.tensor.endswith("weight")
    assert equal(weights(trainer), before)


def test_updates_are_kept_only_where_they_could_write_what_is_not_finite(
    job, make_trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_good = make_trainer(job).state.last_good
    assert not last_good.is_needed()
    dense, tables = last_good._optimizers
    for optimizer, key, value in ((dense, "eps", 0.0), (dense, "lr", math.nan), (tables, "l2", math.inf)):
        before = optimizer.param_groups[-1][key]
        optimizer.param_groups[-1][key] = value
        assert last_good.is_needed(), key
        optimizer.param_groups[-1][key] = before
    assert not last_good.is_needed()
    # Of other optimizers nothing is known.
    other = torch.optim.SGD(dense.param_groups[0]["params"], lr=0.1)
    assert LastGood([], [other]).is_needed()
    monkeypatch.setattr(optimizers, "EPSILON", 0.0)
    assert last_good.is_needed()


def test_what_an_optimizer_calls_safe_is_finite_for_the_largest_gradients() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    linear = torch.nn.Linear(2, 1)
    made = [
        optimizers.dense_optimizer(list(linear.named_parameters()), 1e6 - 1, 1e6 - 1),
        optimizers.RowwiseAdagrad([table.weight], 1e6 - 1, 1e6 - 1),
    ]
    assert all(optimizers.writes_finite_values(optimizer) for optimizer in made)
    # The largest gradients whose norm is finite, then the smallest, then none: the running means are at their worst.
    for size in (1e19, 1e-38, 0.0):
        for parameter in linear.parameters():
            parameter.grad = torch.full_like(parameter, size)
        values = torch.full((1, 2), size)
        table.weight.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), values, (4, 2)).coalesce()
        for optimizer in made:
            for parameter in (*linear.parameters(), table.weight):
                with torch.no_grad():
                    parameter.clamp_(-1, 1)
            optimizer.step()
        assert all(bool(torch.isfinite(parameter).all()) for parameter in (*linear.parameters(), table.weight)), size


def test_a_loss_scale_is_not_adapted_by_an_update_that_was_taken_back(job, make_trainer) -> None:
    training = job.training.model_copy(update={"precision": "fp16"})
    trainer = make_trainer(job.model_copy(update={"training": training}))
    trainer.optimizers[0].param_groups[0]["weight_decay"] = math.inf
    before = trainer.precision.state_dict()
    assert update(trainer.state, take_step(trainer.state, batch_of(trainer), position(0))) is not None
    assert trainer.precision.state_dict() == before


def test_a_faulty_batch_proposes_to_stop_and_touches_nothing(job, make_trainer) -> None:
    trainer = make_trainer(job)
    before, batch = weights(trainer), batch_of(trainer)
    numeric = batch.numeric.clone()
    numeric[3, 1] = math.inf
    taken = take_step(trainer.state, replace(batch, numeric=numeric), position(0))
    assert taken.decision == "stop"
    cause = update(trainer.state, taken)
    assert cause is not None
    assert (cause.kind, cause.feature, cause.row) == ("input", "rating", int(batch.rows[3]))
    assert equal(weights(trainer), before)


def test_cancelling_is_reported_and_nothing_else(job, make_trainer) -> None:
    trainer = make_trainer(job)
    assert take_step(trainer.state, batch_of(trainer), position(0), cancelled=True).cancelled
    torch.set_rng_state(generator_state(torch.device("cpu"))["torch"])
    assert not take_step(trainer.state, batch_of(trainer), position(0)).cancelled
