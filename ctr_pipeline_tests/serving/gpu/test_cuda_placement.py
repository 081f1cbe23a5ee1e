"""All of an exported graph can be recorded as a CUDA graph, as far as that is known without a GPU."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from ctr_pipeline.serving import Bundle
from ctr_pipeline_tests.serving.gpu.cuda_kernels import copied, fixed, without_kernel

FROM_SHAPES = {"Shape", "Size", "Range", "ConstantOfShape", "NonZero", "If", "Loop", "Scan"}


@pytest.mark.parametrize("name", ["bundle", "sharing"])
@pytest.mark.parametrize("size", [1, 64])
def test_a_graph_of_fixed_sizes_computes_no_shape_and_all_of_it_on_cuda(
    name: str, size: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found: Bundle = request.getfixturevalue(name)
    model = fixed(found.directory / "model.onnx", size, tmp_path)
    assert {node.op_type for node in model.graph.node} & FROM_SHAPES == set()
    assert without_kernel(model) == []


@pytest.mark.parametrize("name", ["bundle", "sharing"])
def test_of_any_size_no_value_is_copied_between_processor_and_gpu(name: str, request: pytest.FixtureRequest) -> None:
    found: Bundle = request.getfixturevalue(name)
    assert copied(onnx.load(found.directory / "model.onnx")) == []


def test_what_cannot_be_recorded_is_found(tmp_path: Path) -> None:
    """The control: places of rows are computed of a shape and read as ids, and an operator has no kernel."""
    nodes = [
        helper.make_node("Shape", ["numbers"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["places"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["numbers", "places"], ["sums"]),
        helper.make_node("Det", ["sums"], ["logits"]),
    ]
    given = [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["rows", 2])]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "wrong", given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "wrong.onnx")
    assert copied(model) == ["Add: places"]
    assert without_kernel(fixed(tmp_path / "wrong.onnx", 2, tmp_path)) == ["Det(FLOAT)"]
