"""A trained ranker as a file."""

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

import torch

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.model import Ranker, build_ranker
from ctr_pipeline.spec.model import Model


def layout_hash(layout: Layout) -> str:
    """SHA-256 of the layout's JSON: a stored state fits exactly the layout it was trained with."""
    return hashlib.sha256(layout.to_json().encode()).hexdigest()


def save_ranker(path: Path, ranker: Ranker, layout: Layout) -> str:
    """Write the weights to ``path`` in one step; equal weights give equal bytes.

    Returns:
        SHA-256 of the file.
    """
    state = OrderedDict((name, value.detach().cpu().clone()) for name, value in ranker.state_dict().items())
    # torch.save writes the file's stem into the archive: the partial file therefore has the same stem.
    partial = path.parent / ".partial" / path.name
    partial.parent.mkdir(parents=True, exist_ok=True)
    torch.save(OrderedDict(layout=layout_hash(layout), state=state), partial)
    with partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    partial.replace(path)
    partial.parent.rmdir()
    return digest


def load_ranker(path: Path, layout: Layout, model: Model) -> Ranker:
    """Read the weights that :func:`save_ranker` wrote; the ranker is in evaluation mode, on the CPU.

    Raises:
        RankerError: There is no such file, or it was trained with another layout or model section.
    """
    if not path.is_file():
        raise RankerError(f"no trained model at {path.name}: train first")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    if stored["layout"] != layout_hash(layout):
        raise RankerError(f"{path.name} was trained with another dataset layout: use the layout.json beside it")
    ranker = build_ranker(layout, model, 0)
    try:
        ranker.load_state_dict(stored["state"])
    except RuntimeError as error:
        raise RankerError(f"{path.name} does not fit the model section of the spec: {error}") from error
    return ranker.eval()
