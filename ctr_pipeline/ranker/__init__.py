"""The model: raw numbers and vocabulary rows in, one logit a task out. Pure torch modules; knows no training loop."""

from ctr_pipeline.ranker.model import Ranker, RankerError, build_ranker
from ctr_pipeline.ranker.storage import layout_hash, load_ranker, save_ranker

__all__ = ["Ranker", "RankerError", "build_ranker", "layout_hash", "load_ranker", "save_ranker"]
