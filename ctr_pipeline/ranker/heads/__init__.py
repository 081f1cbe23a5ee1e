"""From what all tasks read to what each task's head reads, one architecture a file. Registering one needs no torch."""

from ctr_pipeline.ranker.heads.head import Head, build_head, register_head
from ctr_pipeline.ranker.heads.head_shape import HeadShape

__all__ = ["Head", "HeadShape", "build_head", "register_head"]
