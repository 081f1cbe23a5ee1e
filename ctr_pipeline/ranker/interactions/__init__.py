"""Modules that combine the ranker's inputs with each other, one file each. Registering one needs no torch."""

from ctr_pipeline.ranker.interactions.interaction import (
    Interaction,
    build_interaction,
    checked_module,
    out_width,
    register_interaction,
    with_dropout,
)

__all__ = ["Interaction", "build_interaction", "checked_module", "out_width", "register_interaction", "with_dropout"]
