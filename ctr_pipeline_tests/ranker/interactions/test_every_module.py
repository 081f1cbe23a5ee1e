"""What must hold for each registered interaction: gradients, samples and padding, seeds, shapes, missing values, export."""

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.testing import (
    TrainingSetup,
    assert_passed,
    check_cross_sample,
    check_finite_differences,
    check_logit_gradient,
    check_overfits_one_batch,
    check_weights_move,
)
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.masking import known_counts
from ctr_pipeline.losses.multi_task import multi_task_loss
from ctr_pipeline.ranker import Ranker, RankerError, build_ranker
from ctr_pipeline.spec.interactions import InteractionSection
from ctr_pipeline_tests.every_module import KINDS, SECTIONS, layout_of, model_of

Batch = tuple[Tensor, Tensor, Tensor]
PADDING = -1
every_section = pytest.mark.parametrize("section", SECTIONS.values(), ids=list(SECTIONS))
every_kind = pytest.mark.parametrize("section", KINDS.values(), ids=list(KINDS))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def batch_of(rows: int, places: int = 4, seed: int = 3) -> Batch:
    """Numbers, ids and labels [rows, 2]; the list of the last column has 0 to 3 values."""
    generator = torch.Generator().manual_seed(seed)
    numeric = torch.randn((rows, 2), generator=generator)
    numeric[::5, 0] = math.nan
    ids = torch.randint(0, 15, (rows, 6), generator=generator)
    ended = torch.arange(4) >= torch.randint(0, 4, (rows, 1), generator=generator)
    visited = torch.where(ended, PADDING, ids[:, 2:])
    wider = torch.full((rows, places - 4), PADDING)
    clicked = torch.rand(rows, generator=generator) < 0.4
    bought = clicked & (torch.rand(rows, generator=generator) < 0.5)
    return numeric, torch.cat([ids[:, :2], visited, wider], dim=1), torch.stack([clicked, bought], dim=1).float()


def trained(ranker: Ranker, seed: int = 0) -> Ranker:
    """Weights as large as after a training: those of a new ranker score all rows nearly alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for module in ranker.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0
    return ranker


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    labels, ones = batch[2], torch.ones_like(batch[2])
    sums = WeightedBinaryCrossEntropy().task_sums(logits, labels, ones)
    return multi_task_loss(sums, known_counts(labels), torch.ones(2, dtype=logits.dtype))[0]


def setup_of(ranker: Ranker, batch: Batch) -> TrainingSetup:
    return TrainingSetup(
        model=ranker,
        batch=batch,
        forward=lambda model, own: model(own[0], own[1]),
        loss=loss_of,
        labels=lambda own: own[2],
        optimizers=[
            torch.optim.Adagrad(ranker.parameters(), lr=0.05),
        ],
    )


@every_section
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradients_are_the_slopes_of_the_loss(section: InteractionSection, dropout: float) -> None:
    model = model_of(section, dropout=dropout)
    ranker = trained(build_ranker(layout_of(), model, 1))
    found = check_finite_differences(setup_of(ranker, batch_of(24)))
    assert_passed(found)
    assert found.limit is not None
    assert found.limit <= 1e-6


@every_kind
def test_it_learns_and_every_weight_takes_part(section: InteractionSection) -> None:
    ranker = build_ranker(layout_of(), model_of(section), 1)
    setup = setup_of(trained(ranker), batch_of(48))
    assert_passed(check_logit_gradient(setup), check_weights_move(setup), check_overfits_one_batch(setup))


@every_section
def test_samples_do_not_depend_on_each_other(section: InteractionSection) -> None:
    setup = setup_of(trained(build_ranker(layout_of(), model_of(section, dropout=0.2), 1)), batch_of(32))
    assert_passed(check_cross_sample(setup), check_cross_sample(setup, training=False))


@every_section
def test_a_row_scores_the_same_alone_and_in_any_batch(section: InteractionSection) -> None:
    ranker = trained(build_ranker(layout_of(), model_of(section), 1)).eval()
    numeric, ids, _ = batch_of(257)
    with torch.no_grad():
        together = torch.sigmoid(ranker(numeric, ids))
        for size in (1, 3, 64):
            alone = torch.cat([ranker(numeric[i : i + size], ids[i : i + size]) for i in range(0, 257, size)])
            assert float((torch.sigmoid(alone) - together).abs().max()) <= 1e-6
    assert float(together.std(dim=0).min()) > 1e-3
    assert ranker(numeric[:0], ids[:0]).shape == (0, 2)


@every_section
def test_padding_of_a_list_does_not_change_the_score(section: InteractionSection) -> None:
    model = model_of(section)
    short, long = (trained(build_ranker(layout_of(places), model, 1)).eval() for places in (4, 11))
    with torch.no_grad():
        found = [torch.sigmoid(ranker(*batch_of(64, places)[:2])) for ranker, places in ((short, 4), (long, 11))]
    assert float((found[0] - found[1]).abs().max()) <= 1e-6


@every_section
def test_initial_weights_follow_from_the_seed_and_leave_the_others_alone(section: InteractionSection) -> None:
    layout = layout_of()
    states = []
    for seed, noise in ((5, 1), (5, 2), (6, 1)):
        torch.manual_seed(noise)
        states.append(build_ranker(layout, model_of(section), seed).state_dict())
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if name.startswith("interactions.") and float(first[name].float().std()) > 0]
    assert all(not torch.equal(first[name], other[name]) for name in drawn)
    plain = build_ranker(layout, model_of(), 5).state_dict()
    assert all(torch.equal(first[name], plain[name]) for name in plain if not name.startswith("head."))


@every_section
def test_a_flag_that_no_training_row_raised_has_no_influence(section: InteractionSection) -> None:
    """A price that is missing scores as one that is its fill, as long as the flag's weights were never taught."""
    ranker = build_ranker(layout_of(), model_of(section), 1).eval()
    with torch.no_grad():
        ranker.head.weight.mul_(10)
    numeric, ids, _ = batch_of(16)
    numeric[:, 0] = 3.0
    missing = numeric.clone()
    missing[:, 0] = math.nan
    torch.testing.assert_close(ranker(missing, ids), ranker(numeric, ids))


@every_section
def test_other_inputs_than_it_was_built_for_are_refused(section: InteractionSection) -> None:
    ranker = build_ranker(layout_of(), model_of(section), 1)
    (interaction,) = ranker.interactions.values()
    numbers, (fields,) = torch.zeros(5, ranker.shape.numbers), (torch.zeros(5, 3, 4),)
    assert interaction(numbers, (fields,)).shape == (5, interaction.out_width)
    for wrong in (torch.zeros(5, 2, 4), torch.zeros(5, 3, 5), torch.zeros(4, 3, 4)):
        with pytest.raises(RankerError, match=f"{section.kind}: shape .* expected"):
            interaction(numbers, (wrong,))


@every_kind
def test_extreme_inputs_have_finite_scores(section: InteractionSection) -> None:
    ranker = trained(build_ranker(layout_of(), model_of(section), 1)).eval()
    numeric, ids, _ = batch_of(8)
    for value in (1e6, -1e6, math.nan):
        assert bool(torch.isfinite(ranker(torch.full_like(numeric, value), ids)).all())
    numbers, fields = torch.zeros(2, ranker.shape.numbers), (torch.zeros(2, 3, 4),)
    (interaction,) = ranker.interactions.values()
    assert bool(torch.isfinite(interaction(numbers, fields)).all()), "embeddings of zeros have no spread to divide by"


class Outputs(nn.Module):
    """Each interaction's output by itself, so that one export tells which of them differs."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, numeric: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        inputs = self.ranker.encode(numeric, ids)
        return tuple(module(inputs.numbers, inputs.fields) for module in self.ranker.interactions.values())


def test_the_exported_graph_computes_the_same(tmp_path: Path) -> None:
    module = Outputs(trained(build_ranker(layout_of(), model_of(*SECTIONS.values()), 1))).eval()
    numeric, ids, _ = batch_of(65)
    rows = torch.export.Dim("rows", min=1)
    path = tmp_path / "modules.onnx"
    torch.onnx.export(
        module, (numeric[:3], ids[:3]), path, dynamo=True, opset_version=20, verbose=False,
        dynamic_shapes=({0: rows}, {0: rows}),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    for count in (1, 65):
        given = numeric[:count], ids[:count]
        found = session.run(None, dict(zip(names, (value.numpy() for value in given), strict=True)))
        with torch.no_grad():
            expected = module(*given)
        for name, own, ours in zip(SECTIONS, found, expected, strict=True):
            scale = max(1.0, float(ours.abs().max()))
            np.testing.assert_allclose(own / scale, ours.numpy() / scale, atol=1e-5, rtol=0, err_msg=name)
