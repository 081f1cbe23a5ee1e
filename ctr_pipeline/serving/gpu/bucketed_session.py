"""A graph that runs at few fixed sizes, as a CUDA graph must."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.serving.request_values import BundleError

CANDIDATE_SIZES = (1, 64, 256, 1024)
"""Sizes that the number of candidates, or of rows, is filled up to."""

KEY_SIZES = (1, 4, 16)
"""Sizes that the number of requests of one run is filled up to."""

WARM_UP = 3
"""Runs of a size before requests: the first lays out memory, the next is recorded."""

Inputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Buffers:
    """Arrays of one size on the device, at addresses that stay."""

    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    options: Any


@dataclass(frozen=True, slots=True)
class BucketedSession:
    """Runs an exported graph on a device.

    A request is filled up with zeros to the next size, of which the rows that were asked for are given back; rows do
    not depend on each other, so their scores stay the same. For each size the inputs and outputs lie at fixed addresses; on
    CUDA the run of a size is recorded once and replayed.

    Not to be used by two threads at once.

    Attributes:
        session: An ``onnxruntime.InferenceSession``.
        device: ``cuda`` or ``cpu``.
        sizes: For each axis that may vary, by its name in the graph, the sizes that are run, ascending. The axis that
            varies fastest in the rows of the outputs stands last.
    """

    session: Any
    device: str
    sizes: Mapping[str, tuple[int, ...]]
    _buffers: dict[tuple[int, ...], _Buffers] = field(default_factory=dict)

    def run(self, outputs: Sequence[str], inputs: Inputs) -> list[NDArray[Any]]:
        """The named outputs, [N, ·] each, of inputs whose axes may be of any size; called as a session of ONNX Runtime is.

        Raises:
            BundleError: an input is absent, unknown or of another rank, or two disagree on an axis.
        """
        found = self._run_any(inputs)
        return [found[name] for name in outputs]

    def _run_any(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        lengths = self._lengths(inputs)
        last = list(self.sizes)[-1]
        for axis, sizes in self.sizes.items():
            # A request of more candidates than a run takes is split by itself, so that its rows follow each other.
            most = 1 if axis != last and lengths[last] > self.sizes[last][-1] else sizes[-1]
            if lengths[axis] > most:
                parts = (self._part(inputs, axis, at, at + most) for at in range(0, lengths[axis], most))
                pieces = [self._run_any(part) for part in parts]
                return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        return self._run_one(inputs, lengths)

    def warm_up(self) -> None:
        """Runs each size, so that memory is laid out and CUDA graphs are recorded before the first request.

        It must be called by the thread that will run requests: ONNX Runtime keeps recordings by thread.
        """
        for size in product(*self.sizes.values()):
            lengths = dict(zip(self.sizes, size, strict=True))
            inputs = {
                given.name: np.zeros([lengths.get(axis, axis) for axis in given.shape], dtype=_dtype(given.type))
                for given in self.session.get_inputs()
            }
            for _ in range(WARM_UP):
                self._run_one(inputs, lengths)

    def _run_one(self, inputs: Inputs, lengths: Mapping[str, int]) -> dict[str, NDArray[Any]]:
        size = tuple(next(one for one in sizes if one >= lengths[name]) for name, sizes in self.sizes.items())
        if size not in self._buffers:
            self._buffers[size] = self._allocate(size)
        buffers = self._buffers[size]
        for name, array in inputs.items():
            buffers.inputs[name].update_inplace(_filled(array, buffers.inputs[name].shape()))
        self.session.run_with_iobinding(buffers.binding, buffers.options)
        wanted = [lengths[name] for name in self.sizes]
        found = {}
        for name, value in buffers.outputs.items():
            array = value.numpy()
            shaped = array.reshape(*size, *array.shape[1:])[tuple(slice(length) for length in wanted)]
            # A copy: on a processor the array is the buffer, which the next run fills.
            found[name] = np.array(shaped).reshape(math.prod(wanted), *array.shape[1:])
        return found

    def _allocate(self, size: Sequence[int]) -> _Buffers:
        import onnxruntime

        lengths = dict(zip(self.sizes, size, strict=True))
        binding, options = self.session.io_binding(), onnxruntime.RunOptions()
        if self.device == "cuda":
            # Each size has a recording of its own; -1 would be none.
            options.add_run_config_entry("gpu_graph_id", str(len(self._buffers) + 1))
        inputs, outputs = {}, {}
        for given in self.session.get_inputs():
            shape = [lengths.get(axis, axis) for axis in given.shape]
            value = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=_dtype(given.type)), self.device, 0)
            binding.bind_ortvalue_input(given.name, value)
            inputs[given.name] = value
        for made in self.session.get_outputs():
            shape = [math.prod(size), *made.shape[1:]]
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, _dtype(made.type), self.device, 0)
            binding.bind_ortvalue_output(made.name, value)
            outputs[made.name] = value
        return _Buffers(binding, inputs, outputs, options)

    def _lengths(self, inputs: Inputs) -> dict[str, int]:
        """The length of each axis that may vary."""
        described = {given.name: given.shape for given in self.session.get_inputs()}
        if inputs.keys() != described.keys():
            raise BundleError(f"score: expected the inputs {sorted(described)}; found {sorted(inputs)}")
        lengths: dict[str, int] = {}
        for name, array in inputs.items():
            shape = described[name]
            fits = len(shape) == array.ndim and all(
                lengths.setdefault(axis, length) == length if isinstance(axis, str) else axis == length
                for axis, length in zip(shape, array.shape, strict=True)
            )
            if not fits:
                raise BundleError(f"score: {name}: expected the shape {shape}; found {list(array.shape)}")
        return lengths

    def _part(self, inputs: Inputs, axis: str, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """The part from ``start`` to ``stop`` of each input that has the axis."""
        described = {given.name: given.shape for given in self.session.get_inputs()}
        found = {}
        for name, array in inputs.items():
            places = [slice(start, stop) if one == axis else slice(None) for one in described[name]]
            found[name] = array[tuple(places)]
        return found


def sizes_of(session: Any) -> dict[str, tuple[int, ...]]:
    """The sizes to run of the axes of a graph that may vary: rows alone, or requests and the candidates of each."""
    axes = list(dict.fromkeys(axis for given in session.get_inputs() for axis in given.shape if isinstance(axis, str)))
    # An input of the shared part alone has no axis of candidates, so the first axis is that of requests.
    return {axis: KEY_SIZES if axis != axes[-1] else CANDIDATE_SIZES for axis in axes}


def _filled(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """The array, filled up with zeros at the end of each axis."""
    if list(array.shape) == list(shape):
        return np.ascontiguousarray(array)
    found = np.zeros(shape, dtype=array.dtype)
    found[tuple(slice(length) for length in array.shape)] = array
    return found


def _dtype(kind: str) -> "np.dtype[Any]":
    return np.dtype({"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(double)": "float64"}[kind])
