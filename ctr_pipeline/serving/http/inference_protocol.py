"""The Open Inference Protocol, version 2 (REST; https://github.com/kserve/open-inference-protocol): one tensor a feature.

Tensors are JSON; the binary extension is not read.
"""

from collections.abc import Callable, Collection
from itertools import chain
from typing import Any

import numpy as np

from ctr_pipeline.serving.http.request_json import (
    LONGEST_NAME,
    RequestError,
    kind_of,
    may_be_id,
    refuse_other_fields,
    shown_name,
)
from ctr_pipeline.serving.http.request_scoring import Scored, ServedModel
from ctr_pipeline.serving.request_encoding import TIME
from ctr_pipeline.spec.ranking import RANKING_SCORE

INFERENCE_FIELDS = ("id", "parameters", "inputs", "outputs")
TENSOR_FIELDS = ("name", "shape", "datatype", "data", "parameters")

_PLAIN: dict[str, Callable[[set[type]], bool]] = {
    "BYTES": lambda kinds: kinds <= {str, type(None)},
    "FP32": lambda kinds: kinds <= {float, int, type(None)},
    "FP64": lambda kinds: kinds <= {float, int, type(None)},
    "INT32": lambda kinds: kinds <= {int, type(None)},
    "INT64": lambda kinds: kinds <= {int, type(None)},
    "BOOL": lambda kinds: kinds <= {bool, type(None)},
}
"""By data type, whether values of these types are of it; null is a missing value."""


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """The answer to ``GET /v2/models/{name}``."""
    bundle, shared = model.bundle, model.encoder.declared_shared
    return {
        "name": bundle.name,
        "versions": [bundle.sha256],
        "platform": "onnx_onnxv1",
        "inputs": [
            {
                "name": name,
                "datatype": "INT64" if name == TIME else "BYTES" if "string" in kind else "FP64",
                "shape": [1 if name in shared else -1, *([-1] if kind.startswith("[") else [])],
            }
            for name, kind in {**dict.fromkeys(sorted(model.bids), "double"), **bundle.inputs}.items()
        ],
        "outputs": [{"name": name, "datatype": _output_type(name), "shape": [-1]} for name in model.outputs],
    }


def columns_of(
    content: dict[str, Any], most: int, known: Collection[str]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The shared and the candidates' features of an inference request.

    Tensors of one row are shared where others have several.

    Args:
        content: The request.
        most: Most rows of a tensor.
        known: Names that requests may hold.

    Raises:
        RequestError: names the tensor that cannot be read.
    """
    refuse_other_fields(content, INFERENCE_FIELDS)
    if not isinstance(content.get("id", ""), str):
        raise RequestError(f"`id`: expected a text; found {kind_of(content['id'])}", "id")
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(f"`inputs`: expected a list of tensors; found {kind_of(inputs)}", "inputs")
    columns: dict[str, list[Any]] = {}
    for tensor in inputs:
        name, values = _column(tensor, most, known)
        if name in columns:
            raise RequestError(f"the tensor {shown_name(name)} is there twice", name)
        columns[name] = values
    if all(len(values) == 1 for values in columns.values()):
        return {name: values[0] for name, values in columns.items()}, {}
    shared = {name: values[0] for name, values in columns.items() if len(values) == 1}
    return shared, {name: values for name, values in columns.items() if len(values) != 1}


def wanted_outputs(content: dict[str, Any], known: tuple[str, ...]) -> list[str]:
    """The outputs that a request asks for; all of the ``known`` ones where it names none.

    Raises:
        RequestError: there is no such output, or it is there twice.
    """
    outputs = content.get("outputs")
    if outputs is None:
        return list(known)
    if not isinstance(outputs, list) or not all(isinstance(one, dict) for one in outputs):
        raise RequestError("`outputs`: expected a list of objects with a `name`", "outputs")
    names = [one.get("name") for one in outputs]
    for name in names:
        if name not in known:
            raise RequestError(f"`outputs`: the model has no such output; it has {', '.join(known)}", "outputs")
    # Each is as long as the request: a short request could ask for an answer of any length.
    if len(set(names)) < len(names):
        raise RequestError("`outputs`: one of them is there twice", "outputs")
    return names or list(known)


def inference_answer(model: ServedModel, content: dict[str, Any], found: Scored, wanted: list[str]) -> dict[str, Any]:
    """The answer to an inference request: the calibrated probabilities of each task [N], and the ranking score [N]."""
    rows = len(found.scores.probabilities)
    columns: dict[str, Any] = dict(zip(model.bundle.tasks, found.scores.probabilities.T, strict=True))
    if found.ranking is not None:
        columns[RANKING_SCORE] = found.ranking
    answer = {
        "model_name": model.bundle.name,
        "model_version": model.bundle.sha256,
        "outputs": [
            {
                "name": name,
                "datatype": _output_type(name),
                "shape": [rows],
                "data": np.ascontiguousarray(columns[name]),
            }
            for name in wanted
            # Another version may answer, which ranks by nothing.
            if name in columns
        ],
    }
    return answer | ({"id": content["id"]} if "id" in content else {})


def _output_type(name: str) -> str:
    return "FP64" if name == RANKING_SCORE else "FP32"


def _column(tensor: Any, most: int, known: Collection[str]) -> tuple[str, list[Any]]:
    """Name and rows of a tensor."""
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        raise RequestError("`inputs`: expected objects with name, shape, datatype and data", "inputs")
    if may_be_id(name, known):
        raise RequestError(
            "`inputs`: a tensor has a name that the model does not know, and that is not repeated here as it may be an id",
            "inputs",
        )
    where, field = f"tensor {shown_name(name)}", name[:LONGEST_NAME]
    refuse_other_fields(tensor, TENSOR_FIELDS, where)
    datatype, shape, data = tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
    if not isinstance(datatype, str) or datatype not in _PLAIN:
        raise RequestError(f"{where}: expected a datatype of {', '.join(_PLAIN)}", field)
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 2
        or not all(type(length) is int and length >= 0 for length in shape)
    ):
        raise RequestError(f"{where}: expected a shape [N], or [N, L] for lists", field)
    # Rows of no values take no place in the request: their number is limited by nothing else.
    if shape[0] > most:
        raise RequestError(f"{where}: {shape[0]} candidates; expected at most {most}", field, status=413, kind="limit")
    if not isinstance(data, list):
        raise RequestError(f"{where}: `data`: expected a list; found {kind_of(data)}", field)
    nested = bool(data) and all(isinstance(part, list) for part in data)
    flat = list(chain.from_iterable(data)) if nested else data
    size = shape[0] * (shape[1] if len(shape) == 2 else 1)
    fits = len(shape) == 2 and len(data) == shape[0] and all(len(part) == shape[1] for part in data) if nested else True
    if len(flat) != size or not fits:
        raise RequestError(f"{where}: its data do not have the shape {shape}; found {len(flat)} values", field)
    if not _PLAIN[datatype](set(map(type, flat))):
        raise RequestError(f"{where}: a value is not of the datatype {datatype}", field)
    if len(shape) == 1:
        return name, flat
    return name, [flat[at * shape[1] : (at + 1) * shape[1]] for at in range(shape[0])]
