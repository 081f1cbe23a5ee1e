"""Embeddings in fewer bytes: how far they are off, and graphs that compute exactly what the rounded ranker does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from ctr_pipeline.serving import Bundle, BundleError, graph_file
from ctr_pipeline.serving.embedding_storage import Storage, quantised_rows, rounded, store_embeddings
from ctr_pipeline.serving.export import check_parity
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.serving.shop import SPEC, Shop

TABLES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1e-30, -3e-39, 1.0]),
)


@given(TABLES)
def test_eight_bits_are_off_by_half_a_scale_at_most(values: np.ndarray) -> None:
    whole, scale = quantised_rows(values)
    assert (whole.dtype, scale.shape) == (np.int8, (len(values), 1))
    off = np.abs(rounded(values, "int8").astype(np.float64) - values)
    largest = np.abs(values).max(axis=1, keepdims=True)
    # A row whose scale would be no normal number is one of zeros.
    limit = np.where(largest / 127 > np.finfo(np.float32).tiny, 0.5001 * largest / 127, largest)
    assert (off <= limit).all()
    for row in range(len(values)):
        np.testing.assert_array_equal(rounded(values[row : row + 1], "int8")[0], rounded(values, "int8")[row])


@given(TABLES)
def test_what_was_rounded_stays_when_it_is_stored_again(values: np.ndarray) -> None:
    once = rounded(values, "int8")
    np.testing.assert_array_equal(quantised_rows(once)[0], quantised_rows(values)[0])
    np.testing.assert_allclose(rounded(once, "int8"), once, rtol=3e-7, atol=1e-37)
    half = np.clip(values, -60_000, 60_000)
    np.testing.assert_array_equal(rounded(rounded(half, "fp16"), "fp16"), rounded(half, "fp16"))
    np.testing.assert_array_equal(rounded(values, "fp32"), values)


def test_half_precision_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(OverflowError, match="a value above 65504"):
        rounded(np.array([[65_520.0]], dtype=np.float32), "fp16")
    assert rounded(np.array([[65_504.0]], dtype=np.float32), "fp16")[0, 0] == 65_504


def looking_up(reader: str = "Gather") -> tuple[onnx.ModelProto, np.ndarray]:
    """A model that looks rows up in a table twice, and in another that keeps its bytes."""
    values = rounded(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), "int8")
    values = rounded(values, "fp16") if reader == "fp16" else values
    nodes = [
        helper.make_node("Gather", ["a.table.weight", "rows"], ["one"], axis=0),
        helper.make_node("Gather", ["a.table.weight", "first"], ["two"], axis=0),
        helper.make_node("Gather", ["means", "rows"], ["three"], axis=0),
    ]
    if reader == "Neg":
        nodes.append(helper.make_node("Neg", ["a.table.weight"], ["four"]))
    given = [helper.make_tensor_value_info("rows", TensorProto.INT64, ["N", 2])]
    shapes = {"one": ["N", 2, 3], "two": [1, 3], "three": ["N", 2, 3]} | ({"four": [5, 3]} if reader == "Neg" else {})
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    constants = [
        numpy_helper.from_array(values, "a.table.weight"),
        numpy_helper.from_array(values, "means"),
        numpy_helper.from_array(np.array([4]), "first"),
    ]
    noted = [helper.make_tensor_value_info("a.table.weight", TensorProto.FLOAT, [5, 3])]
    graph = helper.make_graph(nodes, "tables", given, found, constants, value_info=noted)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), values


@pytest.mark.parametrize(
    ("storage", "kind", "bytes_"), [("fp16", TensorProto.FLOAT16, 30), ("int8", TensorProto.INT8, 15)]
)
def test_a_graph_computes_the_same_of_a_stored_table(storage: Storage, kind: int, bytes_: int) -> None:
    model, values = looking_up("fp16" if storage == "fp16" else "Gather")
    rows = np.array([[0, 3], [4, 4]])
    store_embeddings(model, storage)
    onnx.checker.check_model(model, full_check=True)
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "a.table.weight")
    assert (table.data_type, len(table.raw_data)) == (kind, bytes_)
    one, two, three = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"rows": rows})
    np.testing.assert_allclose(one, values[rows], rtol=3e-7)
    np.testing.assert_allclose(two, values[[4]], rtol=3e-7)
    np.testing.assert_array_equal(three, values[rows])


def test_a_table_that_is_read_as_a_whole_is_not_stored_otherwise() -> None:
    with pytest.raises(ValueError, match="read by Neg; expected Gather alone"):
        store_embeddings(looking_up("Neg")[0], "int8")


def stored(shop: Shop, **serving: Any) -> Shop:
    return replace(shop, spec=parse_spec(yaml.safe_dump(yaml.safe_load(SPEC) | {"serving": serving}), "test"))


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_a_bundle_scores_as_the_ranker_with_rounded_embeddings(shop: Shop, storage: Storage, tmp_path: Path) -> None:
    own = stored(shop, embedding_storage=storage, candidate_features=["ad", "price"])
    weights = {name: values.clone() for name, values in shop.ranker.state_dict().items()}
    bundle = own.export(tmp_path / "bundle")
    numeric, ids = shop.rows(300)
    parity = check_parity(bundle, shop.ranker, shop.calibrators, numeric, ids, storage)
    parity.require()
    assert 1e-7 < parity.storage < (1e-3 if storage == "fp16" else 3e-2)
    # The ranker that was trained stays as it is.
    assert all(torch.equal(values, weights[name]) for name, values in shop.ranker.state_dict().items())
    exact = check_parity(bundle, shop.ranker, shop.calibrators, numeric, ids)
    assert exact.probability == pytest.approx(parity.storage, rel=0.05)
    kinds = {t.name: t.data_type for t in onnx.load(bundle.directory / "model.onnx").graph.initializer}
    wanted = TensorProto.FLOAT16 if storage == "fp16" else TensorProto.INT8
    tables = {name: kind for name, kind in kinds.items() if name.endswith(".table.weight")}
    assert tables
    assert set(tables.values()) == {wanted}


def test_embeddings_beyond_half_precision_are_refused(shop: Shop, tmp_path: Path) -> None:
    name, table = next((n, v) for n, v in shop.ranker.named_parameters() if n.endswith(".table.weight"))
    before = table.data.clone()
    try:
        table.data[2, 0] = 1e5
        with pytest.raises(BundleError, match=f"{name} holds a value above 65504.*use int8 or fp32"):
            stored(shop, embedding_storage="fp16").export(tmp_path / "bundle")
    finally:
        table.data.copy_(before)


def test_weights_above_the_limit_of_a_file_lie_beside_it(
    shop: Shop, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_file, "MOST_BYTES", 1000)
    monkeypatch.setattr(graph_file, "_SMALL", 100)
    large = shop.export(tmp_path / "large")
    weights = large.directory / "model.onnx.data"
    assert "model.onnx.data" in json.loads((large.directory / "manifest.json").read_text())["files"]
    numeric, ids = shop.rows(50)
    np.testing.assert_array_equal(large.score(numeric, ids).logits, bundle.score(numeric, ids).logits)
    assert shop.export(tmp_path / "again").sha256 == large.sha256
    # It may be moved, and each of its files is looked at.
    moved = shutil.copytree(large.directory, tmp_path / "moved")
    Bundle.open(moved)
    content = bytearray((moved / "model.onnx.data").read_bytes())
    content[40] ^= 1
    (moved / "model.onnx.data").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx\.data: its SHA-256 is not the manifest's"):
        Bundle.open(moved)
    (moved / "model.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx\.data: absent; the bundle is incomplete"):
        Bundle.open(moved)
    # A smaller model in its place leaves nothing of it.
    monkeypatch.undo()
    shop.export(large.directory)
    assert not weights.exists()
