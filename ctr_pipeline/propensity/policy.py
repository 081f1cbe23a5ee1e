"""What another policy would have earned, from the propensities that the logging policy wrote down."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.propensity.positions import PropensityError


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """Estimates of the mean reward of a policy, with standard errors."""

    rows: int
    ips: float
    """Inverse propensity score: mean of w · reward, w = target / logged (Horvitz and Thompson 1952). Unbiased."""
    ips_error: float
    snipw: float
    """Self-normalised: Σ w · reward / Σ w (Swaminathan and Joachims 2015). Less variance, little bias."""
    snipw_error: float
    ess: float
    """Effective sample size (Σw)²/Σw², in rows."""


def policy_value(reward: NDArray[np.float64], logged: NDArray[np.float64], target: NDArray[np.float64]) -> PolicyValue:
    """Value of the policy with probabilities ``target`` from rows that were logged with probabilities ``logged``.

    Args:
        reward: [N] outcome of each row.
        logged: [N] probability in (0, 1] with which the logging policy chose what the row shows.
        target: [N] probability with which the policy in question would have.

    Raises:
        PropensityError: no rows, or a probability outside its range.
    """
    if not len(reward):
        raise PropensityError("policy value: no rows. Give rows with a logged propensity.")
    if not bool(np.all((logged > 0) & (logged <= 1))) or not bool(np.all((target >= 0) & (target <= 1))):
        raise PropensityError("policy value: logged propensities must be in (0, 1] and target ones in [0, 1].")
    weights = target / logged
    rows, total = len(reward), float(weights.sum())
    if total == 0:
        raise PropensityError("policy value: the target policy would show none of these rows.")
    terms = weights * reward
    snipw = float(terms.sum()) / total
    residual = weights * (reward - snipw)
    return PolicyValue(
        rows=rows,
        ips=float(terms.mean()),
        ips_error=float(terms.std(ddof=1)) / rows**0.5 if rows > 1 else float("inf"),
        snipw=snipw,
        snipw_error=float(np.square(residual).sum()) ** 0.5 / total,
        ess=total**2 / float(np.square(weights).sum()),
    )
