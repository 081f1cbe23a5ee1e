"""Whether users were assigned to the arms of a test in the ratio that was declared."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s
from ctr_pipeline.evaluation.metrics import EvaluationError

_WEIGHTS = (100.0, 1_000.0, 10_000.0)
"""Users whose evidence a prior on the ratio is worth: many, as most assignments that are wrong are wrong by little, and few, so
that one that is wrong by much is found with few users. Each prior has an equal part."""


def sample_ratio_p_value(users: Sequence[int], shares: Sequence[float]) -> float:
    """How likely so uneven an assignment is, if the declared ratio holds; valid however often one looks.

    One over the Bayes factor of Dirichlet priors around the declared ratio against the ratio itself, at most 1 (Lindon &
    Malek 2022): the chance that it ever falls below a level is at most that level.

    Args:
        users: Users of each arm.
        shares: Declared share of each arm, above 0; they are divided by their sum.

    Raises:
        EvaluationError: there are fewer than two arms, a share is not above 0, or a number of users is negative.
    """
    counts, declared = np.asarray(users, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if counts.ndim != 1 or counts.shape != declared.shape or len(counts) < 2:
        raise EvaluationError(
            f"sample ratio: expected users and a share for each of at least two arms; found {counts.shape} and {declared.shape}"
        )
    if not (np.isfinite(declared).all() and (declared > 0).all() and np.isfinite(counts).all() and (counts >= 0).all()):
        raise EvaluationError("sample ratio: expected shares above 0, and numbers of users of at least 0")
    declared = declared / declared.sum()
    log_factors = np.array([_log_factor(counts, declared, weight) for weight in _WEIGHTS])
    log_factor = float(special.logsumexp(log_factors)) - math.log(len(_WEIGHTS))
    return math.exp(-max(0.0, log_factor))


def _log_factor(counts: Float64s, declared: Float64s, weight: float) -> float:
    prior = weight * declared
    return float(
        np.sum(special.gammaln(prior + counts) - special.gammaln(prior))
        + special.gammaln(prior.sum())
        - special.gammaln(prior.sum() + counts.sum())
        - np.sum(special.xlogy(counts, declared))
    )
