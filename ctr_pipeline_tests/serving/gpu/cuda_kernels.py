"""Which nodes of a graph CUDA computes, by ONNX Runtime's list of kernels; a CUDA graph records no others.

ONNX Runtime refuses a CUDA graph where a value is copied between processor and GPU (pull request 16491). Values that are computed
of shapes stay on the processor, which is no reason where they are read there, as shapes are.
"""

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import TensorProto

FLOATS, WHOLE, HALF, TRUTH = TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.BOOL
BYTES = TensorProto.INT8

# docs/OperatorKernels.md of ONNX Runtime, section CUDAExecutionProvider, opset 20: types of the first input, of those that occur here.
KERNELS: dict[str, frozenset[int]] = {
    **dict.fromkeys(("Concat", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"), frozenset((FLOATS, WHOLE, HALF, TRUTH, BYTES))),
    **dict.fromkeys(("Abs", "Add", "Div", "Mul", "Neg", "Sign", "Sub", "Max", "Min", "ReduceMax", "ReduceSum"), frozenset((FLOATS, WHOLE))),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Clip", "Expand"), frozenset((FLOATS, WHOLE))),
    **dict.fromkeys(("Exp", "Log", "Relu", "Sigmoid", "Softmax", "Sqrt", "Tanh", "Gemm", "MatMul"), frozenset((FLOATS,))),
    **dict.fromkeys(("IsInf", "IsNaN", "LayerNormalization", "ReduceLogSumExp", "ReduceMean"), frozenset((FLOATS,))),
    **dict.fromkeys(("And", "Not", "Or", "Where"), frozenset((TRUTH,))),
    "Cast": frozenset((FLOATS, WHOLE, HALF, TRUTH, BYTES)),
}  # fmt: skip

SHAPES = {"Shape", "Size"}
"""Operators whose results are on the processor."""

ON_PROCESSOR: dict[str, set[int]] = {
    "Reshape": {1}, "Expand": {1}, "Slice": {1, 2, 3, 4}, "Unsqueeze": {1}, "Squeeze": {1}, "Split": {1}, "Tile": {1},
    "ConstantOfShape": {0}, "Range": {0, 1, 2},
}  # fmt: skip
"""By operator, the places of inputs that its kernel for CUDA reads on the processor."""

ABLE = {"Add", "Cast", "Concat", "Div", "Gather", "Mul", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze"}
"""Operators that are left on the processor where all that they read is there."""


def fixed(path: Path, size: int, folder: Path) -> Any:
    """The graph with each of its axes that may vary at ``size``, and all that is constant then computed."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fixed.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    for given in onnx.load(path).graph.input:
        for axis in given.type.tensor_type.shape.dim:
            if axis.dim_param:
                options.add_free_dimension_override_by_name(axis.dim_param, size)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "fixed.onnx")


def without_kernel(model: Any) -> list[str]:
    """Nodes that CUDA has no kernel for, each with the type of its first input."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {one.name: one.type.tensor_type.elem_type for one in [*graph.value_info, *graph.input, *graph.output]}
    kinds |= {one.name: one.data_type for one in graph.initializer}
    found = []
    for node in graph.node:
        kind = kinds.get(node.input[0], TensorProto.UNDEFINED)
        if kind not in KERNELS.get(node.op_type, frozenset()):
            found.append(f"{node.op_type}({TensorProto.DataType.Name(kind)})")
    return found


def copied(model: Any) -> list[str]:
    """Values that are computed of shapes, on the processor, and read on the GPU."""
    constants, there, found = {one.name for one in model.graph.initializer}, set[str](), []
    for node in model.graph.node:
        if node.op_type in SHAPES or (
            node.op_type in ABLE and there & set(node.input) and set(node.input) <= there | constants
        ):
            there |= set(node.output)
            continue
        own = ON_PROCESSOR.get(node.op_type, set())
        found += [f"{node.op_type}: {name}" for at, name in enumerate(node.input) if name in there and at not in own]
    return found
