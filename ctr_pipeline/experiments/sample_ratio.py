"""Whether users were assigned to the arms of a test in the ratio that was declared."""

from collections.abc import Sequence

import numpy as np
from scipy import special

from ctr_pipeline.evaluation.metrics import EvaluationError

_WEIGHT = 10_000.0
"""Users whose evidence the prior on the ratio is worth: large, as assignments that are wrong are wrong by little."""


def sample_ratio_p_value(users: Sequence[int], shares: Sequence[float]) -> float:
    """How likely so uneven an assignment is, if the declared ratio holds; valid however often one looks.

    One over the Bayes factor of a Dirichlet prior around the declared ratio against the ratio itself, at most 1 (Lindon &
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
    prior = _WEIGHT * declared
    log_factor = (
        np.sum(special.gammaln(prior + counts) - special.gammaln(prior))
        + special.gammaln(prior.sum())
        - special.gammaln(prior.sum() + counts.sum())
        - np.sum(special.xlogy(counts, declared))
    )
    return float(np.exp(-max(0.0, log_factor)))
