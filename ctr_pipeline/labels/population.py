"""What the keys of a log have in common: how their rates and their delays spread, outliers set apart."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LARGEST_OUTLIER_SHARE = 0.25
"""Largest share of outliers with which the other keys still form a population."""

LEAST_DELAYS = 10
"""Outcomes that a key needs for its delay to be evaluated."""

LEAST_DELAY_SCALE = 0.1
"""Smallest scale, in logs, on which delays are compared: 2.5 of it are a factor of 1.28."""

_LOG_PRECISION = (math.log(0.5), math.log(1e6))
_STARTS = (10.0, 300.0)
_MEDIAN_OF_ABSOLUTE_NORMAL = 0.6744897501960817


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePopulation:
    """Rates of honest keys: Beta(alpha, beta), so that positives out of trials are beta-binomial (Skellam 1948)."""

    alpha: float
    beta: float
    outlier_share: float
    """Estimated share of the keys whose rate does not come from this distribution."""

    @property
    def rate(self) -> float:
        """Mean rate."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def centre(self) -> float:
        """μ, the mean of the logit of the rates: ψ(alpha) - ψ(beta)."""
        return float(special.digamma(self.alpha) - special.digamma(self.beta))

    @property
    def spread(self) -> float:
        """τ, the standard deviation of the logit of the rates: the root of ψ′(alpha) + ψ′(beta)."""
        return float(np.sqrt(special.polygamma(1, self.alpha) + special.polygamma(1, self.beta)))

    def z(self, trials: Integers, positives: Integers) -> Floats:
        """[K] standardised logit rates (y - μ) / √(τ² + s²) of keys with these counts [K]; 0 for keys without trials.

        For the smoothing, half an outcome of the rarer kind is added, and as many of the other kind as go with it at
        the population's centre: then y is finite, lies on the same side of μ as the rate, and moves away from it as
        trials are added at the same rate. s² = 1/positives + 1/negatives with twice that added, which is nearly
        unbiased for the variance of y (Gart and Zweifel 1967, for a centre of one half).
        """
        centre = float(special.expit(self.centre))
        added = 0.5 / min(centre, 1 - centre)
        ones, zeros = positives.astype(np.float64), (trials - positives).astype(np.float64)
        y = np.log((ones + added * centre) / (zeros + added * (1 - centre)))
        variance = 1 / (ones + 2 * added * centre) + 1 / (zeros + 2 * added * (1 - centre))
        scores: Floats = np.where(trials > 0, (y - self.centre) / np.sqrt(self.spread**2 + variance), 0.0)
        return scores

    def limits(self, trials: Integers, threshold: float) -> tuple[Floats, Floats]:
        """[N] rates between which a key with ``trials`` [N] trials has |z| of at most ``threshold``."""
        low, high = np.zeros(len(trials)), np.ones(len(trials))
        for index, count in enumerate(trials.tolist()):
            possible = np.unique(np.linspace(0, count, 2001).astype(np.int64))
            scores = self.z(np.full(len(possible), count), possible)
            rates = possible[np.abs(scores) <= threshold] / max(count, 1)
            low[index], high[index] = (rates[0], rates[-1]) if len(rates) else (self.rate, self.rate)
        return low, high


def fit_rates(trials: Integers, positives: Integers) -> RatePopulation:
    """The population that counts [K] of keys come from, by maximum likelihood.

    A key is honest, its count beta-binomial, or an outlier, of which nothing is assumed but that its rate lies in
    (0, 1): Beta(1/2, 1/2). The likelihood is that of the mixture, so each key counts in the fit as much as it is likely
    to be honest, and outliers do not widen the population.

    Args:
        trials: Number of trials of each key.
        positives: Number of those with the outcome; neither none nor all over all keys.
    """
    # Equal counts have equal likelihoods; and sorted ones make the sums independent of the order of the keys.
    pairs, copies = np.unique(np.stack([trials, positives]), axis=1, return_counts=True)
    ones, zeros = pairs[1].astype(np.float64), (pairs[0] - pairs[1]).astype(np.float64)
    times = copies.astype(np.float64)
    ways = -np.log1p(pairs[0]) - special.betaln(ones + 1, zeros + 1)  # log of trials over positives
    outlier = special.betaln(ones + 0.5, zeros + 0.5) - special.betaln(0.5, 0.5)
    start = special.logit((positives.sum() + 0.5) / (trials.sum() + 1))
    fits = [
        optimize.minimize(
            _loss,
            np.array([start, math.log(precision), special.logit(0.05)]),
            args=(ones, zeros, times, ways, outlier),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-20.0, 20.0), _LOG_PRECISION, (-20.0, 20.0)],
            options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8},
        )
        for precision in _STARTS
    ]
    alpha, beta, share = _parameters(min(fits, key=lambda fit: float(fit.fun)).x)
    return RatePopulation(alpha=alpha, beta=beta, outlier_share=share)


def _parameters(point: Floats) -> tuple[float, float, float]:
    """Alpha, beta and the outliers' share at a point (logit of the mean, log of the precision, logit of the share)."""
    mean, precision = float(special.expit(point[0])), math.exp(point[1])
    # Not 1 - mean, which loses its digits near 1.
    return (
        mean * precision,
        float(special.expit(-point[0])) * precision,
        LARGEST_OUTLIER_SHARE * float(special.expit(point[2])),
    )


def _loss(
    point: Floats, ones: Floats, zeros: Floats, times: Floats, ways: Floats, outlier: Floats
) -> tuple[float, Floats]:
    """Minus the log likelihood a key, and its gradient."""
    alpha, beta, share = _parameters(point)
    honest = special.betaln(ones + alpha, zeros + beta) - special.betaln(alpha, beta)
    log_honest, log_outlier = math.log1p(-share) + honest, math.log(share) + outlier
    total = np.logaddexp(log_honest, log_outlier)
    weight = np.exp(log_honest - total)  # probability that the key is honest
    both = special.digamma(ones + zeros + alpha + beta) - special.digamma(alpha + beta)
    by_alpha = float(times @ (weight * (special.digamma(ones + alpha) - special.digamma(alpha) - both)))
    by_beta = float(times @ (weight * (special.digamma(zeros + beta) - special.digamma(beta) - both)))
    by_share = float(times @ ((1 - weight) / share - weight / (1 - share)))
    slope = alpha * beta / (alpha + beta)
    gradient = np.array(
        [
            slope * (by_alpha - by_beta),
            alpha * by_alpha + beta * by_beta,
            by_share * share * (1 - share / LARGEST_OUTLIER_SHARE),
        ]
    )
    keys = float(times.sum())
    return -float(times @ (ways + total)) / keys, -gradient / keys


@dataclass(frozen=True, slots=True)
class Delays:
    """Typical delays of keys, [K]; nan where a key has no outcome or, for z, too few."""

    median: Floats
    """In the unit of the input."""
    z: Floats


def compare_delays(key: Integers, delay: Floats, keys: int) -> Delays:
    """Median delay of each key, and how far its log lies from those of the other keys.

    z = (log median - μ) / √(τ² + s²). s is half the width of the interval that holds the median of as many draws from
    the pooled residuals with probability 0.68, by order statistics. μ is the median of the log medians, and τ is such
    that half of the |z| are below 0.674, as for a normal distribution: a minority of late keys changes neither.

    Args:
        key: [N] key of each outcome, from 0 to ``keys`` - 1.
        delay: [N] delays, all above 0.
        keys: Number of keys, K.
    """
    median, z = np.full(keys, np.nan), np.full(keys, np.nan)
    order = np.lexsort((delay, key))
    key, logs = key[order], np.log(delay[order])
    counts = np.bincount(key, minlength=keys)
    first = np.cumsum(counts) - counts
    held = counts > 0
    low, high = (first + (counts - 1) // 2)[held], (first + counts // 2)[held]
    centres = np.full(keys, np.nan)
    centres[held] = (logs[low] + logs[high]) / 2
    median[held] = np.exp(centres[held])
    enough = counts >= LEAST_DELAYS
    if enough.sum() < 2:
        return Delays(median, z)
    residuals = np.sort((logs - centres[key])[enough[key]])
    half = 0.5 / np.sqrt(counts[enough])
    error = (np.quantile(residuals, 0.5 + half) - np.quantile(residuals, 0.5 - half)) / 2
    away = centres[enough] - np.median(centres[enough])
    z[enough] = away / np.sqrt(_spread(away, error) ** 2 + error**2)
    return Delays(median, z)


def _spread(away: Floats, error: Floats) -> float:
    """The τ of :func:`compare_delays`, at least so large that the scale is :data:`LEAST_DELAY_SCALE`."""

    def excess(spread: float) -> float:
        return float(np.median(np.abs(away) / np.sqrt(spread**2 + error**2))) - _MEDIAN_OF_ABSOLUTE_NORMAL

    widest = 2 * float(np.abs(away).max()) / _MEDIAN_OF_ABSOLUTE_NORMAL
    if widest <= LEAST_DELAY_SCALE or excess(LEAST_DELAY_SCALE) <= 0:
        return LEAST_DELAY_SCALE
    return float(optimize.brentq(excess, LEAST_DELAY_SCALE, widest))
