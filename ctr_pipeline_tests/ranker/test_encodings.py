"""Encodings of numbers in the ranker: formulas, missing values, ties, and the same bits in the exported graph."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctr_pipeline.features.layout import Encoding, IdColumn, Layout, NumericColumn
from ctr_pipeline.features.number_encodings import fit_encoding
from ctr_pipeline.ranker import RankerError, build_ranker
from ctr_pipeline.ranker.numeric import NumericEncoder
from ctr_pipeline.spec.encodings import ENCODINGS, Bucket, Cyclic, EncodingSection, PiecewiseLinear
from ctr_pipeline.spec.model import Model

SECTIONS: dict[str, EncodingSection] = {
    "piecewise_linear": PiecewiseLinear(bins=5),
    "bucket": Bucket(bins=5),
    "cyclic": Cyclic(period=2.5),
}
PLAIN = NumericColumn("x", "dense", "signed_log1p", 1.0, True, 0.5, 2.0)
counts = st.lists(st.integers(-3, 40).map(float), min_size=5, max_size=40)


def encoded(section: EncodingSection, training: list[float]) -> NumericColumn:
    return replace(PLAIN, encoding=fit_encoding(section, np.sort(np.array(training, dtype=np.float32))))


def inputs_of(column: NumericColumn, raw: list[float]) -> np.ndarray:
    """The inputs of the column's encoding."""
    encoder = NumericEncoder([column])
    found: np.ndarray = encoder(torch.tensor(raw)[:, None])[:, encoder.flags.stop :].numpy()
    return found


def test_every_kind_of_the_spec_is_known_here() -> None:
    assert set(SECTIONS) == set(ENCODINGS.sections) - {"standard"}


@settings(deadline=None, max_examples=60)
@given(counts, counts)
def test_piecewise_linear_inputs(training: list[float], raw: list[float]) -> None:
    column = encoded(PiecewiseLinear(bins=6), training)
    if column.encoding is None:
        return
    expected = []
    for x in raw:
        pairs = zip(column.encoding.edges, column.encoding.edges[1:], strict=False)
        expected.append([min(max((x - a) / (b - a), 0), 1) for a, b in pairs])
    np.testing.assert_allclose(inputs_of(column, raw), np.array(expected) - column.encoding.means, atol=1e-6)
    # Over the training rows an input says nothing: so a zero is the usual one.
    np.testing.assert_allclose(inputs_of(column, training).mean(axis=0), 0, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(counts, counts)
def test_a_value_at_an_edge_is_in_the_bucket_above(training: list[float], raw: list[float]) -> None:
    column = encoded(Bucket(bins=6), training)
    if column.encoding is None:
        return
    raw = [*raw, *column.encoding.edges, math.inf, -math.inf]
    places = [sum(x >= edge for edge in column.encoding.edges) for x in raw]
    expected = np.eye(len(column.encoding.means))[places] - column.encoding.means
    np.testing.assert_allclose(inputs_of(column, raw), expected, atol=1e-7)
    np.testing.assert_allclose(inputs_of(column, training).mean(axis=0), 0, atol=1e-6)


def test_cyclic_inputs_are_the_same_after_a_period() -> None:
    column = replace(PLAIN, encoding=Encoding("cyclic", period=24.0))
    found = inputs_of(column, [0.0, 6.0, 12.0, 30.0, -18.0, 24e4 + 6, 5.0])
    np.testing.assert_allclose(found[:3], [[0, 1], [1, 0], [0, -1]], atol=1e-6)
    np.testing.assert_allclose(found[3:6], [found[1]] * 3, atol=1e-5)
    np.testing.assert_allclose(found[6], [math.sin(2 * math.pi * 5 / 24), math.cos(2 * math.pi * 5 / 24)], atol=1e-6)


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_missing_value_is_no_value(kind: str) -> None:
    column = encoded(SECTIONS[kind], [0.0, 1.0, 1.0, 2.0, 5.0, 9.0])
    encoder = NumericEncoder([column])
    found = encoder(torch.tensor([[math.nan], [column.fill], [math.inf], [-math.inf]]))
    assert torch.isfinite(found).all()
    assert (found[0, encoder.flags.stop :] == 0).all()
    assert found[:2, encoder.flags].tolist() == [[1.0], [0.0]]
    assert (found[1, encoder.flags.stop :] != 0).any()
    # The value itself beside the bins only.
    assert encoder.flags == (slice(1, 2) if kind == "piecewise_linear" else slice(0, 1))


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_missing_value_is_its_fill_where_nothing_says_that_it_is_missing(kind: str) -> None:
    encoder = NumericEncoder([replace(encoded(SECTIONS[kind], [0.0, 1.0, 1.0, 2.0, 5.0, 9.0]), indicator=False)])
    missing, filled, other = encoder(torch.tensor([[math.nan], [PLAIN.fill], [5.0]]))
    assert torch.equal(missing, filled)
    assert not torch.equal(missing, other)


@pytest.mark.parametrize("hidden", [[], [6]])
def test_what_was_never_missing_in_training_has_no_influence_when_it_is(hidden: list[int]) -> None:
    """Inputs that no training row had keep a weight of 0; a linear model then predicts what it does on average."""
    training = torch.tensor([[0.0], [1.0], [1.0], [2.0], [5.0], [9.0]])
    plain = replace(PLAIN, transform="none", mean=3.0, fill=3.0)
    values = np.sort(training.flatten().numpy())
    columns = tuple(
        replace(plain, name=kind, encoding=fit_encoding(SECTIONS[kind], values))
        for kind in ("piecewise_linear", "bucket")
    )
    layout = Layout(columns, (), ("click",), (-1,))
    ranker = build_ranker(layout, Model(hidden=hidden), 0)
    numeric, ids = training.expand(-1, 2).contiguous(), torch.zeros((6, 0), dtype=torch.int64)
    optimiser = torch.optim.AdamW(ranker.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(20):
        optimiser.zero_grad()
        target = (training[:, :1] > 1.5).float()
        torch.nn.functional.binary_cross_entropy_with_logits(ranker(numeric, ids), target).backward()
        optimiser.step()
    first = ranker.tower[0].linear if hidden else ranker.head
    assert ranker.wide is not None
    assert ranker.wide.numbers is not None
    flags = ranker.numeric.flags
    assert torch.count_nonzero(first.weight[:, flags]) == torch.count_nonzero(ranker.wide.numbers.weight[:, flags]) == 0
    if not hidden:
        with torch.no_grad():
            seen, unseen = ranker(numeric, ids), ranker(torch.full((1, 2), math.nan), ids[:1])
        assert seen.std() > 0.5
        torch.testing.assert_close(unseen[0], seen.mean(dim=0))


@pytest.fixture
def mixed() -> tuple[Layout, Tensor, Tensor]:
    """All encodings beside each other and rows with values at edges, beyond them, and missing ones."""
    generator = np.random.default_rng(0)
    training = np.sort(np.floor(generator.lognormal(3, 2, 500)).astype(np.float32))
    columns = [replace(PLAIN, name="plain")]
    for kind, section in SECTIONS.items():
        columns += [replace(PLAIN, name=f"{kind}_{n}", encoding=fit_encoding(section, training)) for n in (1, 2)]
    raw = generator.choice(np.append(training, [np.nan, -5, 1e9]), (300, len(columns))).astype(np.float32)
    layout = Layout(tuple(columns), (IdColumn("ad", "categorical", 5, 4),), ("click", "buy"), (-1, 0))
    return layout, torch.from_numpy(raw), torch.from_numpy(generator.integers(0, 5, (300, 1)))


def test_the_exported_graph_has_the_same_inputs(mixed: tuple[Layout, Tensor, Tensor], tmp_path: Path) -> None:
    encoder = NumericEncoder(mixed[0].numeric).eval()
    path = tmp_path / "numbers.onnx"
    size = torch.export.Dim("rows", min=1)
    torch.onnx.export(encoder, (mixed[1][:3],), path, dynamo=True, opset_version=20, dynamic_shapes=({0: size},), verbose=False)  # fmt: skip
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: mixed[1].numpy()})
    expected = encoder(mixed[1]).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # No rounding decides a bin: they are equal to the bit.
    bins = slice(encoder.flags.stop, -4)
    np.testing.assert_array_equal(found[:, bins], expected[:, bins])


def test_a_row_scores_the_same_alone(mixed: tuple[Layout, Tensor, Tensor]) -> None:
    layout, numeric, ids = mixed
    ranker = build_ranker(layout, Model(embedding_dim=4, hidden=[16, 8]), 0).eval()
    with torch.no_grad():
        alone = torch.cat([ranker(numeric[i : i + 1], ids[i : i + 1]) for i in range(40)])
        torch.testing.assert_close(alone, ranker(numeric, ids)[:40], atol=1e-6, rtol=0)


def test_encodings_that_cannot_be_computed_are_refused() -> None:
    with pytest.raises(RankerError, match="'x' has encoding 'spline'; known here: piecewise_linear, bucket, cyclic"):
        NumericEncoder([replace(PLAIN, encoding=Encoding("spline"))])
    with pytest.raises(RankerError, match=r"'x' has bins from -3e\+38 to 3e\+38"):
        NumericEncoder([replace(PLAIN, encoding=Encoding("piecewise_linear", (-3e38, 3e38), (0.5,)))])
