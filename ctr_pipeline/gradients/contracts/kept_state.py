"""The state of a training, kept while a contract tries something, and its digest."""

import copy
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.training_setup import Stateful, TrainingSetup, device_of


@contextmanager
def kept_state(setup: TrainingSetup) -> Iterator[None]:
    """Puts model, gradients, optimizers, further parts and random generators back as they were, to the byte."""
    with kept_model(setup.model), kept_generators(setup.model), kept_parts([*setup.optimizers, *setup.others]):
        yield


@contextmanager
def kept_parts(parts: Sequence[Stateful]) -> Iterator[None]:
    """Puts the state of optimizers, scalers and the like back as it was."""
    saved = [copy.deepcopy(part.state_dict()) for part in parts]
    try:
        yield
    finally:
        for part, state in zip(parts, saved, strict=True):
            part.load_state_dict(state)


@contextmanager
def kept_model(model: nn.Module) -> Iterator[None]:
    """Puts parameters, buffers, gradients, modes and ``requires_grad`` of ``model`` back as they were."""
    modes = [(module, module.training) for module in model.modules()]
    owners = [(owner, name, value) for owner in _holders(model) for name, value in owner.items() if value is not None]
    saved = [(value.detach().clone(), value.requires_grad) for _, _, value in owners]
    gradients = [(p, None if p.grad is None else p.grad.detach().clone()) for p in model.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for (owner, name, value), (content, requires_grad) in zip(owners, saved, strict=True):
                if value.is_leaf:
                    value.requires_grad_(requires_grad)
                value.detach().copy_(content)
                owner[name] = value
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


def _holders(model: nn.Module) -> Iterator[dict[str, Any]]:
    for module in model.modules():
        yield module._parameters
        yield module._buffers


@contextmanager
def kept_generators(model: nn.Module) -> Iterator[None]:
    """Puts the generators of torch, of the model's device, of numpy and of Python back as they were."""
    device = device_of(model)
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def fixed_random(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """A block that draws the same random numbers each time, such as those of dropout."""
    with kept_generators(model):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield


def state_digest(*states: Any) -> str:
    """SHA-256 of tensors, numbers, texts and containers of them; equal for equal states to the bit.

    Args:
        states: State dicts, tensors or plain values.
    """
    digest = hashlib.sha256()
    for part in _parts(states):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterable[bytes]:
    if isinstance(value, Tensor):
        dense = value.detach().coalesce().to_dense() if value.is_sparse else value.detach()
        yield f"{dense.dtype}{tuple(dense.shape)}".encode()
        yield dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield repr(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"{len(value)}".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode()
