"""The model: raw numbers and vocabulary rows in, one logit a task out. Pure torch modules; knows no training loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctr_pipeline.ranker.errors import RankerError

if TYPE_CHECKING:
    from ctr_pipeline.ranker.model import Ranker, build_ranker
    from ctr_pipeline.ranker.storage import layout_hash, load_ranker, save_ranker

__all__ = ["Ranker", "RankerError", "build_ranker", "layout_hash", "load_ranker", "save_ranker"]

_TORCH_MODULES = {
    "Ranker": "model",
    "build_ranker": "model",
    "layout_hash": "storage",
    "load_ranker": "storage",
    "save_ranker": "storage",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to load: an extension that registers an interaction is imported by processes without a model.
    if name not in _TORCH_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_TORCH_MODULES[name]}"), name)
