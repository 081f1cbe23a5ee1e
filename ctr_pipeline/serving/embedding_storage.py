"""Embeddings in fewer bytes than those of single precision; a graph looks rows up and then converts them."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Storage = Literal["fp32", "fp16", "int8"]

TABLE = ".table.weight"
"""How the names of the weights that are looked up by rows end."""

_LARGEST = 127


def quantised_rows(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers [R, d] and scales [R, 1], whose product is ``values`` [R, d] but for half a scale.

    The scale of a row is its largest absolute value over 127: a row scores the same whatever the others are. A row of
    zeros stays one.
    """
    scale = np.abs(values).max(axis=1, keepdims=True, initial=0.0) / np.float32(_LARGEST)
    # A scale that is too small to divide by stands for a row of zeros.
    whole = np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(np.inf))
    return np.rint(values / whole).astype(np.int8), np.where(np.isinf(whole), np.float32(0), scale)


def rounded(values: NDArray[np.float32], storage: Storage) -> NDArray[np.float32]:
    """``values`` [R, d] as they are after they were stored.

    Raises:
        OverflowError: a value is too large for half precision.
    """
    if storage == "fp32":
        return values
    if storage == "int8":
        whole, scale = quantised_rows(values)
        return whole.astype(np.float32) * scale
    if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
        raise OverflowError(f"a value above {np.finfo(np.float16).max:g}")
    return values.astype(np.float16).astype(np.float32)


def store_embeddings(model: Any, storage: Storage) -> None:
    """Stores the tables of an ONNX model in half precision, or by rows as whole numbers of 8 bits and a scale, in place.

    What a Gather gives is converted to single precision, so that all that follows stays as it is. Of tables that
    :func:`rounded` has been applied to, the model computes the same as before.

    Args:
        model: An ``onnx.ModelProto``. Tables are initializers of single precision whose names end in :data:`TABLE` and
            that Gather nodes alone read, along axis 0.
        storage: How they are stored.
    """
    if storage == "fp32":
        return
    graph = model.graph
    tables = {tensor.name for tensor in graph.initializer if tensor.name.endswith(TABLE)}
    readers = [node for node in graph.node if tables & set(node.input)]
    other = [node.op_type for node in readers if node.op_type != "Gather" or node.input[0] not in tables]
    if other:
        raise ValueError(f"a table is read by {other[0]}; expected Gather alone")
    constants: list[Any] = []
    for tensor in graph.initializer:
        if tensor.name not in tables:
            constants.append(tensor)
        elif storage == "fp16":
            constants.append(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        else:
            whole, scale = quantised_rows(numpy_helper.to_array(tensor))
            constants += [
                numpy_helper.from_array(whole, tensor.name),
                numpy_helper.from_array(scale, f"{tensor.name}_scale"),
            ]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    # The types that are noted of them are others now.
    described = [value for value in graph.value_info if value.name not in tables]
    del graph.value_info[:]
    graph.value_info.extend(described)
    nodes: list[Any] = []
    for node in graph.node:
        nodes.append(node)
        if node.input and node.input[0] in tables:
            output = node.output[0]
            node.output[0] = f"{output}_stored"
            nodes += _converted(node, output, storage)
    del graph.node[:]
    graph.node.extend(nodes)


def _converted(gather: Any, output: str, storage: Storage) -> list[Any]:
    """Nodes from what a Gather gives to its rows in single precision."""
    stored = gather.output[0]
    if storage == "fp16":
        return [helper.make_node("Cast", [stored], [output], name=f"cast_{output}", to=TensorProto.FLOAT)]
    numbers, scale = f"{output}_numbers", f"{output}_scale"
    return [
        helper.make_node("Cast", [stored], [numbers], name=f"cast_{output}", to=TensorProto.FLOAT),
        helper.make_node(
            "Gather", [f"{gather.input[0]}_scale", gather.input[1]], [scale], name=f"scale_{output}", axis=0
        ),
        helper.make_node("Mul", [numbers, scale], [output], name=f"scaled_{output}"),
    ]
