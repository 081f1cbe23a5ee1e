"""Matrix products of an exported graph in bfloat16, with logits in single precision."""

from collections.abc import Collection
from typing import Any

from onnx import TensorProto, helper, numpy_helper

PRODUCTS = frozenset(("MatMul", "Gemm"))
"""Operators that multiply matrices."""

LOGITS = "logits"
"""Output of the graph whose last products stay in single precision."""


def products_in_bfloat16(model: Any) -> int:
    """Lets the matrix products of an ONNX model compute in bfloat16, in place, and returns how many do.

    Constant factors are stored so; others are converted before the product, and its result after it, as automatic mixed
    precision does. All else, embeddings among it, and each product from which no other leads to the logits, stays in
    single precision: an error there would not be averaged over a layer.

    Args:
        model: An ``onnx.ModelProto`` with weights inside and an output ``logits``.
    """
    import ml_dtypes

    graph = model.graph
    last = _last_products(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    lowered: dict[str, str] = {}
    nodes: list[Any] = []
    found = 0
    for node in graph.node:
        if node.op_type not in PRODUCTS or node.output[0] in last:
            nodes.append(node)
            continue
        found += 1
        for place, name in enumerate(node.input):
            if name and name not in lowered:
                lowered[name] = f"{name}_bfloat16"
                if name in constants:
                    values = numpy_helper.to_array(constants[name]).astype(ml_dtypes.bfloat16)
                    graph.initializer.append(numpy_helper.from_array(values, lowered[name]))
                else:
                    nodes.append(_cast(name, lowered[name], TensorProto.BFLOAT16))
            node.input[place] = lowered.get(name, name)
        output = node.output[0]
        node.output[0] = f"{output}_bfloat16"
        nodes += [node, _cast(node.output[0], output, TensorProto.FLOAT)]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph, lowered)
    return found


def _last_products(graph: Any) -> set[str]:
    """Outputs of the products from which a path without another product leads to the logits."""
    made_by = {output: node for node in graph.node for output in node.output}
    open_, seen, last = [LOGITS], set(), set()
    while open_:
        node = made_by.get(open_.pop())
        if node is None or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        if node.op_type in PRODUCTS:
            last.add(node.output[0])
        else:
            open_ += node.input
    return last


def _drop_unused(graph: Any, names: Collection[str]) -> None:
    """Removes those constants of ``names`` that no node reads."""
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in names]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _cast(source: str, output: str, to: int) -> Any:
    return helper.make_node("Cast", [source], [output], name=f"cast_{output}", to=to)
