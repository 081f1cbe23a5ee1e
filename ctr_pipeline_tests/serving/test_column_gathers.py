"""Chosen columns are the same whichever way they are copied."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ctr_pipeline.features.layout import Encoding
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.serving.column_gathers import MANY, REQUESTS, gather_columns_as_rows, without_whole_choices
from ctr_pipeline_tests.serving.shop import Shop


def choosing_model() -> onnx.ModelProto:
    """Chooses columns of numbers twice and of what was chosen, of ids, few columns, a single one, rows, and parts of a cube."""
    indices = {
        "many": [3, 0, 0, 2, 1, 3, 1, 2, 0], "more": [8, 7, 6, 5, 4, 3, 2, 1, 0, 0], "few": [1, 3], "one": [2], "scalar": 1,
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["numbers", "many"], ["a"], name="first", axis=1),
        helper.make_node("Gather", ["a", "more"], ["b"], axis=1),
        helper.make_node("Gather", ["numbers", "more_of_few"], ["c"], axis=1),
        helper.make_node("Gather", ["ids", "many"], ["d"], axis=1),
        helper.make_node("Gather", ["numbers", "few"], ["e"], axis=1),
        helper.make_node("Gather", ["ids", "scalar"], ["f"], axis=1),
        helper.make_node("Gather", ["numbers", "one"], ["g"], axis=0),
        helper.make_node("Gather", ["cube", "many"], ["h"], axis=1),
    ]
    indices["more_of_few"] = [1, 3] * 5
    given = [
        helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["N", 4]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 4]),
        helper.make_tensor_value_info("cube", TensorProto.FLOAT, ["N", 4, 2]),
    ]
    shapes = {
        "a": ["N", 9], "b": ["N", 10], "c": ["N", 10], "d": ["N", 9], "e": ["N", 2], "f": ["N"], "g": [1, 4], "h": ["N", 9, 2],
    }  # fmt: skip
    found = [
        helper.make_tensor_value_info(name, TensorProto.INT64 if name in "df" else TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    constants = [numpy_helper.from_array(np.array(values, dtype=np.int64), name) for name, values in indices.items()]
    graph = helper.make_graph(nodes, "choosing", given, found, constants, value_info=[found[0]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("rows", [3, 64])
def test_the_outputs_stay_the_same(rows: int) -> None:
    rng = np.random.default_rng(rows)
    numbers = rng.normal(size=(rows, 4)).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.3] = np.nan
    cube = rng.normal(size=(rows, 4, 2)).astype(np.float32)
    inputs = {"numbers": numbers, "ids": rng.integers(-1, 9, (rows, 4)), "cube": cube}

    def run(model: onnx.ModelProto) -> list[np.ndarray]:
        onnx.checker.check_model(model, full_check=True)
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)

    model = choosing_model()
    before = run(model)
    gather_columns_as_rows(model)
    chosen = [node for node in model.graph.node if node.op_type == "Gather"]
    # Four of many columns; few columns, a single one, rows and the cube stay.
    assert [next(field.i for field in node.attribute) for node in chosen] == [0, 0, 0, 0, 1, 1, 0, 1]
    # Of numbers, what was chosen and ids one each, and of each result; what was chosen is there as rows.
    assert sum(node.op_type == "Transpose" for node in model.graph.node) == 6
    for own, other in zip(before, run(model), strict=True):
        assert own.tobytes() == other.tobytes()
        assert own.shape == other.shape


def test_of_one_row_a_request_columns_are_chosen_as_they_are() -> None:
    model = choosing_model()
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = REQUESTS
    gather_columns_as_rows(model)
    # What is chosen of the chosen columns is of an unknown number of rows.
    assert sum(node.op_type == "Transpose" for node in model.graph.node) == 2


def test_all_columns_in_their_order_are_no_choice() -> None:
    orders = {"all": [0, 1, 2, 3], "turned": [3, 2, 1, 0], "first": [0, 1, 2]}
    nodes = [
        helper.make_node("Gather", ["numbers", "all"], ["a"], axis=1),
        helper.make_node("Gather", ["a", "all"], ["b"], axis=1),
        helper.make_node("Gather", ["b", "turned"], ["c"], axis=1),
        helper.make_node("Gather", ["b", "first"], ["d"], axis=1),
        helper.make_node("Gather", ["numbers", "all"], ["e"], axis=1),
        helper.make_node("Gather", ["numbers", "all"], ["f"], axis=0),
    ]
    shapes = {"c": ["N", 4], "d": ["N", 3], "e": ["N", 4], "f": [4, 4]}
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    given = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["N", 4])
    between = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "ab"]
    constants = [numpy_helper.from_array(np.array(values, dtype=np.int64), name) for name, values in orders.items()]
    graph = helper.make_graph(nodes, "choosing", [given], found, constants, value_info=between)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    numbers = {"numbers": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}

    def run() -> list[np.ndarray]:
        onnx.checker.check_model(model, full_check=True)
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, numbers)

    before = run()
    without_whole_choices(model)
    assert sorted(tensor.name for tensor in model.graph.initializer) == ["all", "first", "turned"]
    # Another order, fewer columns, what is returned, and rows stay.
    assert [node.output[0] for node in model.graph.node] == ["c", "d", "e", "f"]
    for own, other in zip(before, run(), strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_bundle_chooses_the_columns_of_bins_by_rows(shop: Shop, tmp_path: Path) -> None:
    price, rating = shop.layout.numeric
    bins = Encoding("piecewise_linear", edges=tuple(range(11)), means=(0.5,) * 10)
    layout = replace(shop.layout, numeric=(replace(price, encoding=bins), rating))
    bundle = replace(shop, layout=layout, ranker=build_ranker(layout, shop.spec.model, 1)).export(tmp_path / "bundle")
    model = onnx.load(bundle.directory / "model.onnx")
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    chosen = [
        (next((field.i for field in node.attribute if field.name == "axis"), 0), sizes[node.input[1]])
        for node in model.graph.node
        if node.op_type == "Gather" and len(sizes.get(node.input[1], ())) == 1
    ]
    assert (0, (10,)) in chosen
    assert not [size for axis, (size,) in chosen if axis == 1 and size >= MANY]
