"""Choices of columns in an exported graph: of all of them there is none, of many they are made by rows of the transposed matrix."""

from typing import Any

import onnx
from onnx import numpy_helper

REQUESTS = "keys"
"""What the graph calls the number of requests."""

MANY = 8
"""Columns from which on it is worth it."""


def without_whole_choices(model: Any) -> None:
    """Leaves out each choice of all columns of a matrix in their order from an ONNX model, in place.

    Args:
        model: An ``onnx.ModelProto`` that says how many columns its matrices have.
    """
    widths = {
        value.name: value.type.tensor_type.shape.dim[1].dim_value
        for value in (*model.graph.value_info, *model.graph.input)
        if len(value.type.tensor_type.shape.dim) == 2
    }
    orders = {
        tensor.name: numpy_helper.to_array(tensor).tolist()
        for tensor in model.graph.initializer
        if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.INT64
    }
    results = {value.name for value in model.graph.output}
    same: dict[str, str] = {}
    nodes: list[Any] = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
        if (
            _chooses_columns(node)
            and node.output[0] not in results
            and node.input[0] in widths
            and orders.get(node.input[1]) == list(range(widths[node.input[0]]))
        ):
            same[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    for field, kept in (
        (model.graph.value_info, [value for value in model.graph.value_info if value.name not in same]),
        (
            model.graph.initializer,
            [one for one in model.graph.initializer if one.name in read or one.name not in orders],
        ),
    ):
        del field[:]
        field.extend(kept)


def gather_columns_as_rows(model: Any) -> None:
    """Replaces each choice of :data:`MANY` columns of a matrix or more in an ONNX model, in place; the outputs stay the same to the last bit.

    ONNX Runtime copies a column value by value, which for the bins of some twenty numbers takes a third of the time of scoring
    hundreds of rows. To transpose, copy rows and transpose back is less: 512 rows take two thirds of the time. What has a row a
    request stays as it is: of its one row there is nothing to gain.

    Args:
        model: An ``onnx.ModelProto``; matrices are inputs of Gather nodes with axis 1 and a constant vector of indices, and
            the model says that they are of two dimensions.
    """
    matrices = {
        value.name
        for value in (*model.graph.value_info, *model.graph.input)
        if len(sizes := value.type.tensor_type.shape.dim) == 2 and sizes[0].dim_param != REQUESTS
    }
    vectors = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 1 and tensor.dims[0] >= MANY}
    transposed: dict[str, str] = {}
    nodes: list[Any] = []
    for node in model.graph.node:
        if not _chooses_columns(node) or node.input[1] not in vectors or node.input[0] not in matrices:
            nodes.append(node)
            continue
        source, (output,) = node.input[0], node.output
        if source not in transposed:
            transposed[source] = f"{source}_columns"
            nodes.append(_transpose(source, transposed[source]))
        rows = transposed[output] = f"{output}_columns"
        nodes.append(
            onnx.helper.make_node("Gather", [transposed[source], node.input[1]], [rows], name=node.name, axis=0)
        )
        nodes.append(_transpose(rows, output))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _chooses_columns(node: Any) -> bool:
    return node.op_type == "Gather" and any(field.name == "axis" and field.i == 1 for field in node.attribute)


def _transpose(source: str, output: str) -> Any:
    return onnx.helper.make_node("Transpose", [source], [output], name=f"transpose_{output}", perm=[1, 0])
