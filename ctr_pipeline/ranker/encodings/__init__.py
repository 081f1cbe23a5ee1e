"""Encodings of numbers beside or instead of their standardised value, one file each."""

from collections.abc import Callable, Mapping, Sequence

from ctr_pipeline.ranker.encodings.bucket import Buckets
from ctr_pipeline.ranker.encodings.cyclic import Angles
from ctr_pipeline.ranker.encodings.encoding import NumberEncoding, Place
from ctr_pipeline.ranker.encodings.piecewise_linear import PiecewiseLinearBins

KINDS: Mapping[str, Callable[[Sequence[Place]], NumberEncoding]] = {
    "piecewise_linear": PiecewiseLinearBins,
    "bucket": Buckets,
    "cyclic": Angles,
}
"""Builds the module of each kind of encoding from the columns that have it."""

__all__ = ["KINDS", "NumberEncoding", "Place"]
