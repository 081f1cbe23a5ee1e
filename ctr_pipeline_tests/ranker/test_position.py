"""What the position does to the logits: numbers by hand, gradients, export, and what is learnt of a known world."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ctr_pipeline.features.layout import IdColumn, Layout, LayoutError, NumericColumn
from ctr_pipeline.ranker import RankerError, build_ranker
from ctr_pipeline.ranker.model import Ranker
from ctr_pipeline.ranker.position import PositionEffect, build_position_effect
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.position import AdditivePosition, Examination, NoPosition

SHARES = (0.5, 0.3, 0.2)
LAYOUT = Layout(
    numeric=(NumericColumn("price", "dense", "none", 0.0, False, 0.0, 1.0),),
    ids=(IdColumn("device", "contextual", 4, 3), IdColumn("ad", "categorical", 9, 3)),
    tasks=("click", "buy"),
    parents=(-1, 0),
    positions=SHARES,
)
STEPS = 1500
KINDS = [AdditivePosition(context=["device"]), Examination(context=["device"]), AdditivePosition(), Examination()]


def rows(size: int = 40, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(0, column.rows, (size,), generator=draw) for column in LAYOUT.ids], dim=1)
    return torch.randn((size, 1), generator=draw), ids.int(), torch.randint(0, 6, (size,), generator=draw)


def drawn(ranker: Ranker) -> Ranker:
    """With effects that are not 0."""
    draw = torch.Generator().manual_seed(3)
    assert ranker.position is not None
    with torch.no_grad():
        for parameter in ranker.position.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return ranker.eval()


def a_ranker(section: AdditivePosition | Examination | NoPosition | None, heads: str = "chain") -> Ranker:
    return build_ranker(LAYOUT, Model.model_validate({"hidden": [8], "position": section, "heads": heads}), 1).eval()


def probability(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits.double())


def test_a_centred_effect_is_0_where_the_position_is_unknown() -> None:
    ranker, plain, (numeric, ids, position) = drawn(a_ranker(KINDS[0])), a_ranker(NoPosition()), rows()
    plain.load_state_dict(ranker.state_dict(), strict=False)
    torch.testing.assert_close(ranker(numeric, ids), plain(numeric, ids))
    torch.testing.assert_close(ranker(numeric, ids, torch.zeros_like(position)), plain(numeric, ids))
    logits = torch.stack([ranker(numeric, ids, torch.full_like(position, at))[:, 0] for at in (1, 2, 3)])
    mean = (torch.tensor(SHARES).reshape(3, 1) * torch.exp(logits)).sum(dim=0)
    torch.testing.assert_close(mean, torch.exp(plain(numeric, ids)[:, 0]))
    assert (logits[0] - logits[2]).abs().max() > 0.1


def test_examination_multiplies_the_probability() -> None:
    ranker, (numeric, ids, position) = drawn(a_ranker(KINDS[1])), rows()
    first = probability(ranker(numeric, ids, torch.ones_like(position)))
    by_position = [probability(ranker(numeric, ids, torch.full_like(position, at))) for at in (1, 2, 3)]
    for found in by_position:
        share = found / first
        # Along the funnel the same share of each step, which depends on the device alone.
        torch.testing.assert_close(share[:, 0], share[:, 1], rtol=1e-5, atol=0)
        assert all(len({round(s, 5) for s in share[ids[:, 0] == device, 0].tolist()}) == 1 for device in range(4))
        assert (share <= 1 + 1e-6).all()
    unknown = probability(ranker(numeric, ids))
    mean = sum(share * found for share, found in zip(SHARES, by_position, strict=True))
    torch.testing.assert_close(unknown, mean, rtol=1e-5, atol=0)


@pytest.mark.parametrize("section", KINDS)
def test_deeper_positions_are_the_last_and_rows_are_scored_alone(section: AdditivePosition | Examination) -> None:
    ranker, (numeric, ids, position) = drawn(a_ranker(section)), rows()
    deeper = torch.where(position > 3, 3, position)
    together = ranker(numeric, ids, position)
    torch.testing.assert_close(together, ranker(numeric, ids, deeper), rtol=0, atol=0)
    alone = torch.cat([ranker(numeric[n : n + 1], ids[n : n + 1], position[n : n + 1]) for n in range(len(ids))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_the_heads_decide_which_tasks_the_position_acts_on() -> None:
    for heads, tasks in (("chain", (0,)), ("independent", (0, 1))):
        effect = a_ranker(KINDS[0], heads).position
        assert isinstance(effect, PositionEffect)
        assert effect.tasks == tasks


@pytest.mark.parametrize("section", KINDS)
def test_gradients_are_those_of_finite_differences(section: AdditivePosition | Examination) -> None:
    ranker, (numeric, ids, position) = drawn(a_ranker(section)).double(), rows(7)
    assert ranker.position is not None
    for parameter in ranker.position.parameters():
        ranker.zero_grad()
        ranker(numeric.double(), ids, position).sum().backward()
        assert parameter.grad is not None
        flat, grad = parameter.detach().reshape(-1), parameter.grad.reshape(-1)
        for place in range(0, len(flat), max(1, len(flat) // 8)):
            sums = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    flat[place] += step
                    sums.append(ranker(numeric.double(), ids, position).sum().item())
                    flat[place] -= step
            assert (sums[0] - sums[1]) / 2e-6 == pytest.approx(grad[place].item(), abs=1e-6)


@pytest.mark.parametrize("section", KINDS)
def test_logits_are_finite_up_to_extreme_ones(section: AdditivePosition | Examination) -> None:
    effect = build_position_effect(LAYOUT, section, [0])
    conditional = torch.tensor([[-60.0, 0.0], [0.0, 0.0], [60.0, 0.0]], requires_grad=True)
    ids, position = torch.zeros((3, 2), dtype=torch.int32), torch.tensor([1, 2, 0])
    for known in (position, None):
        found = effect(conditional, ids, known)
        assert torch.isfinite(found).all()
        found.sum().backward()
        assert conditional.grad is not None
        assert torch.isfinite(conditional.grad).all()


def clicked_at_random(section: AdditivePosition | Examination) -> tuple[Tensor, Tensor]:
    """The curve that is learnt of a log in which better ads stand higher, and the true one."""
    draw = np.random.default_rng(5)
    size, true = 120_000, np.array([1.0, 0.6, 0.35])
    appeal = draw.normal(size=size)
    place = np.clip(np.digitize(-appeal + draw.normal(size=size), [-0.3, 0.8]) + 1, 1, 3)
    clicked = draw.random(size) < true[place - 1] / (1 + np.exp(2.5 - appeal))
    layout = replace(LAYOUT, tasks=("click",), parents=(-1,))
    ranker = build_ranker(layout, Model(hidden=[8], position=section), 1)
    numeric, position = torch.tensor(appeal, dtype=torch.float32).reshape(-1, 1), torch.tensor(place)
    ids, labels = torch.zeros((size, 2), dtype=torch.int32), torch.tensor(clicked, dtype=torch.float32)
    optimizer = torch.optim.AdamW([p for n, p in ranker.named_parameters() if "table" not in n], lr=3e-3)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / STEPS)
        at = slice(step * 2000 % size, step * 2000 % size + 2000)
        logits = ranker(numeric[at], ids[at], position[at])[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ranker.position is not None
    raw = np.array([clicked[place == k].mean() for k in (1, 2, 3)])
    # The log by itself makes the lower positions look far worse than they are.
    assert (raw / raw[0])[2] < true[2] - 0.12
    return ranker.position.relative(ids[:100])[:, 0].detach(), torch.tensor(true)


@pytest.mark.parametrize(("section", "error"), [(Examination(), 0.06), (AdditivePosition(), 0.06)])
def test_the_true_examination_is_learnt_beside_what_is_shown(
    section: AdditivePosition | Examination, error: float
) -> None:
    learnt, true = clicked_at_random(section)
    torch.testing.assert_close(learnt.double(), true, rtol=0, atol=error)


def test_what_does_not_suit_the_layout_is_refused() -> None:
    with pytest.raises(RankerError, match=r"additive, and no training row has a position.*`position: none`"):
        build_ranker(replace(LAYOUT, positions=()), Model(hidden=[8], position=AdditivePosition()), 1)
    with pytest.raises(RankerError, match="names 'colour': a categorical feature of one value"):
        build_ranker(LAYOUT, Model(hidden=[8], position=Examination(context=["colour"])), 1)
    with pytest.raises(LayoutError, match="shares of the positions must add up to 1"):
        replace(LAYOUT, positions=(0.5, 0.4))


def test_by_default_the_layout_decides() -> None:
    assert a_ranker(None).position is not None
    assert build_ranker(replace(LAYOUT, positions=()), Model(hidden=[8]), 1).position is None
    assert Layout.from_json(LAYOUT.to_json()) == LAYOUT
    assert "positions" not in replace(LAYOUT, positions=()).to_json()
