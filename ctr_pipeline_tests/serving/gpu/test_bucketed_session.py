"""What is filled up to a fixed size scores as it does alone; on the processor, as CUDA graphs need a GPU."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.gpu import BucketedSession
from ctr_pipeline_tests.serving.shop import Shop


def keyed_session() -> onnxruntime.InferenceSession:
    """For each candidate of each key: its number times 10 plus that of the key; ids are added."""
    nodes = [
        helper.make_node("Mul", ["own", "ten"], ["tens"]),
        helper.make_node("Unsqueeze", ["shared", "one"], ["wide"]),
        helper.make_node("Add", ["tens", "wide"], ["sums"]),
        helper.make_node("Cast", ["ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["sums", "numbers"], ["all"]),
        helper.make_node("Reshape", ["all", "rows"], ["logits"]),
    ]
    given_ = [
        helper.make_tensor_value_info("own", TensorProto.FLOAT, ["keys", "candidates", 1]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["keys", "candidates", 1]),
        helper.make_tensor_value_info("shared", TensorProto.FLOAT, ["keys", 1]),
    ]
    constants = [
        numpy_helper.from_array(np.array([10], dtype=np.float32), "ten"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "one"),
        numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), "rows"),
    ]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1])]
    graph = helper.make_graph(nodes, "keyed", given_, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString())


KEYED = keyed_session()


@settings(max_examples=60)
@given(keys=st.integers(1, 7), candidates=st.integers(1, 11), seed=st.integers(0, 99))
def test_any_number_of_keys_and_candidates(keys: int, candidates: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = {
        "own": rng.normal(size=(keys, candidates, 1)).astype(np.float32),
        "ids": rng.integers(0, 99, (keys, candidates, 1)),
        "shared": rng.normal(size=(keys, 1)).astype(np.float32),
    }
    bucketed = BucketedSession(KEYED, "cpu", {"keys": (1, 3), "candidates": (1, 4)})
    expected = KEYED.run(["logits"], inputs)[0]
    for _ in range(2):
        assert np.array_equal(bucketed.run(["logits"], inputs)[0], expected)


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 31])
def test_a_bundle_scores_the_same(bundle: Bundle, shop: Shop, rows: int) -> None:
    rng = np.random.default_rng(rows)
    lowest, highest = bundle.layout.id_rows
    numeric = rng.normal(size=(rows, len(bundle.layout.numeric))).astype(np.float32)
    numeric[rng.random(numeric.shape) < 0.2] = np.nan
    ids = rng.integers(np.maximum(lowest, 0), highest + 1, (rows, len(lowest)))
    axis = bundle.session.get_inputs()[0].shape[0]
    bucketed = BucketedSession(bundle.session, "cpu", {axis: (1, 8)})
    bucketed.warm_up()
    logits, probabilities = bucketed.run(["logits", "probabilities"], {"numeric": numeric, "ids": ids})
    expected = bundle.score(numeric, ids)
    assert np.abs(logits - expected.logits).max() <= 1e-6
    assert np.abs(probabilities - expected.probabilities).max() <= 1e-6
    assert logits.shape == expected.logits.shape


def test_what_does_not_fit_is_refused() -> None:
    bucketed = BucketedSession(KEYED, "cpu", {"keys": (1,), "candidates": (4,)})
    own, ids = np.zeros((1, 2, 1), dtype=np.float32), np.zeros((1, 3, 1), dtype=np.int64)
    shared = np.zeros((1, 1), dtype=np.float32)
    with pytest.raises(BundleError, match="ids: expected the shape"):
        bucketed.run(["logits"], {"own": own, "ids": ids, "shared": shared})
    with pytest.raises(BundleError, match="expected the inputs"):
        bucketed.run(["logits"], {"own": own})
