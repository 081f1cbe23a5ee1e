"""In what two retrains differ, from what each of them keeps: a file for each kind of difference."""

from ctr_pipeline.attribution.differences.compare import Compared, compare
from ctr_pipeline.attribution.differences.difference import Difference
from ctr_pipeline.attribution.differences.matched_rows import MatchedRows
from ctr_pipeline.attribution.differences.retrain_state import RetrainState

__all__ = ["Compared", "Difference", "MatchedRows", "RetrainState", "compare"]
