"""Chosen columns are the same whichever way they are copied."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ctr_pipeline.serving.bundle import Bundle
from ctr_pipeline.serving.column_gathers import gather_columns_as_rows


def choosing_model() -> onnx.ModelProto:
    """Chooses columns of numbers twice and of ids once, a row, a single column, and rows."""
    indices = {"many": [3, 0, 0, 2, 1], "two": [1, 3], "one": [2], "scalar": 1}
    nodes = [
        helper.make_node("Gather", ["numbers", "many"], ["a"], name="first", axis=1),
        helper.make_node("Gather", ["numbers", "two"], ["b"], axis=1),
        helper.make_node("Gather", ["ids", "two"], ["c"], axis=1),
        helper.make_node("Gather", ["numbers", "one"], ["d"], axis=1),
        helper.make_node("Gather", ["ids", "scalar"], ["e"], axis=1),
        helper.make_node("Gather", ["numbers", "one"], ["f"], axis=0),
    ]
    given = [
        helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["N", 4]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 4]),
    ]
    shapes = {"a": ["N", 5], "b": ["N", 2], "c": ["N", 2], "d": ["N", 1], "e": ["N"], "f": [1, 4]}
    found = [
        helper.make_tensor_value_info(name, TensorProto.INT64 if name in "ce" else TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    constants = [numpy_helper.from_array(np.array(values, dtype=np.int64), name) for name, values in indices.items()]
    graph = helper.make_graph(nodes, "choosing", given, found, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("rows", [3, 64])
def test_the_outputs_stay_the_same(rows: int) -> None:
    rng = np.random.default_rng(rows)
    numbers = rng.normal(size=(rows, 4)).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.3] = np.nan
    inputs = {"numbers": numbers, "ids": rng.integers(-1, 9, (rows, 4))}

    def run(model: onnx.ModelProto) -> list[np.ndarray]:
        onnx.checker.check_model(model, full_check=True)
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)

    model = choosing_model()
    before = run(model)
    gather_columns_as_rows(model)
    chosen = [node for node in model.graph.node if node.op_type == "Gather"]
    assert [next(field.i for field in node.attribute) for node in chosen] == [0, 0, 0, 1, 1, 0]
    assert sum(node.op_type == "Transpose" for node in model.graph.node) == 5
    for own, other in zip(before, run(model), strict=True):
        assert own.tobytes() == other.tobytes()
        assert own.shape == other.shape


def test_a_bundle_chooses_its_columns_by_rows(bundle: Bundle) -> None:
    model = onnx.load(bundle.directory / "model.onnx")
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    axes = [
        (next((field.i for field in node.attribute if field.name == "axis"), 0), sizes.get(node.input[1], ()))
        for node in model.graph.node
        if node.op_type == "Gather"
    ]
    assert axes
    assert not [size for axis, size in axes if axis == 1 and size and size[0] > 1]
