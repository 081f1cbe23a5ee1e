"""Modules over a key's last events, one file each. Registering one needs no torch."""

from ctr_pipeline.ranker.sequence.sequence_module import (
    SequenceModule,
    build_sequence,
    register_sequence,
)
from ctr_pipeline.ranker.shapes import Events, EventShape

__all__ = ["EventShape", "Events", "SequenceModule", "build_sequence", "register_sequence"]
