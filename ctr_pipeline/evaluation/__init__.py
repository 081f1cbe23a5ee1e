"""How good a model is, how sure that is, whether its rates hold, and whether it may replace the champion."""

from ctr_pipeline.evaluation.floor import (
    Floor,
    against_position,
    position_only,
    position_reasons,
    validation_entropy,
    validation_reasons,
)
from ctr_pipeline.evaluation.intervals import PairedDifference, paired_difference
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval
from ctr_pipeline.evaluation.promotion import PromotionDecision, base_rate_reasons, decide_promotion, stops
from ctr_pipeline.evaluation.promotion_gates import PromotionRules
from ctr_pipeline.evaluation.reliability import ReliabilityBin, reliability
from ctr_pipeline.evaluation.slices import SliceMetrics, slice_metrics, standard_slices
from ctr_pipeline.evaluation.task_metrics import RowGroups, TaskMetrics, evaluate, evaluate_ranking, evaluate_rows

__all__ = [
    "EvaluationError",
    "Floor",
    "Interval",
    "PairedDifference",
    "PromotionDecision",
    "PromotionRules",
    "ReliabilityBin",
    "RowGroups",
    "SliceMetrics",
    "TaskMetrics",
    "against_position",
    "base_rate_reasons",
    "decide_promotion",
    "evaluate",
    "evaluate_ranking",
    "evaluate_rows",
    "paired_difference",
    "position_only",
    "position_reasons",
    "reliability",
    "slice_metrics",
    "standard_slices",
    "stops",
    "validation_entropy",
    "validation_reasons",
]
