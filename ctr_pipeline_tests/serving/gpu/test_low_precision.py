"""Products in bfloat16 are near those in single precision, and logits are not rounded to it."""

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.gpu import products_in_bfloat16


def test_scores_in_bfloat16(bundle: Bundle) -> None:
    """ONNX's reference implementation computes in bfloat16 on any machine; the runtime does on GPUs alone."""
    model = onnx.load(bundle.directory / "model.onnx")
    before = model.ByteSize()
    assert products_in_bfloat16(model) >= 1
    onnx.checker.check_model(model, full_check=True)
    assert model.ByteSize() < before

    rng = np.random.default_rng(0)
    lowest, highest = bundle.layout.id_rows
    numeric = rng.normal(size=(32, len(bundle.layout.numeric))).astype(np.float32)
    ids = rng.integers(np.maximum(lowest, 0), highest + 1, (32, len(lowest)))
    logits, probabilities = ReferenceEvaluator(model).run(["logits", "probabilities"], {"numeric": numeric, "ids": ids})
    expected = bundle.score(numeric, ids)
    assert logits.dtype == np.float32
    # A value of bfloat16 has 8 bits; a layer sums many of them.
    difference = np.abs(logits - expected.logits)
    assert 0 < difference.max() <= 0.05 * max(1, np.abs(expected.logits).max())
    assert np.abs(probabilities - expected.probabilities).max() <= 0.02
    rounded = np.ascontiguousarray(logits, dtype=np.float32).view(np.uint32) & 0xFFFF
    assert (rounded != 0).mean() > 0.9


def test_the_last_products_stay_in_single_precision(bundle: Bundle) -> None:
    model = onnx.load(bundle.directory / "model.onnx")
    every = [node.output[0] for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    lowered = products_in_bfloat16(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    single = [node for node in products if not node.output[0].endswith("_bfloat16")]
    assert len(single) == len(every) - lowered >= 1
    for node in single:
        assert TensorProto.BFLOAT16 not in {kinds.get(name) for name in node.input}
    # Nothing is stored twice.
    read = {name for node in model.graph.node for name in node.input}
    assert not [tensor.name for tensor in model.graph.initializer if tensor.name not in read]
