"""The likely kind of a skew of a vector as a whole; what holds for its elements alone is of :mod:`ctr_pipeline.online.number_kinds`."""

import numpy as np

from ctr_pipeline.online.number_evidence import Numbers, close
from ctr_pipeline.online.skew_kinds import EXPLAINED, LEAST_ROWS, ORDER, TRANSFORM, Kind, Mask, looked_at


def kind_of_vector(served: Numbers, expected: Numbers, differs: Mask) -> Kind | None:
    """Other order of the elements, or a factor for each vector; None where neither explains the differing rows.

    Args:
        served: [K, W]
        expected: [K, W] as recomputed.
        differs: [K]
    """
    rows = looked_at(differs)
    if len(rows) < LEAST_ROWS or served.shape[1] < 2:
        return None
    for found in (_order(served[rows], expected[rows]), _scaled(served[rows], expected[rows])):
        if found is not None and found.explained >= EXPLAINED:
            return found
    return None


def _order(served: Numbers, expected: Numbers) -> Kind | None:
    """Each element is served in the place of one other."""
    width, places = served.shape[1], []
    for at in range(width):
        shares = [float(close(served[:, at], expected[:, other]).mean()) for other in range(width)]
        # Where elements are equal, an element in its own place says nothing.
        places.append(at if shares[at] >= EXPLAINED else int(np.argmax(shares)))
    if len(set(places)) < width or places == list(range(width)):
        return None
    turned = close(served, expected[:, places]).all(axis=1)
    return Kind(ORDER, ", ".join(map(str, places[:8])), float(turned.mean()))


def _scaled(served: Numbers, expected: Numbers) -> Kind | None:
    """All elements of a vector are multiplied with one number, and those of another with another."""
    with np.errstate(all="ignore"):
        ratios = np.where(expected == 0, np.nan, served / expected)
    usable = np.isfinite(ratios).sum(axis=1) >= 2
    if usable.sum() < LEAST_ROWS:
        return None
    factors = np.nanmedian(ratios[usable], axis=1, keepdims=True)
    same = (close(served[usable], factors * expected[usable], 1e-4)).all(axis=1)
    if np.ptp(factors) <= 1e-3 * np.abs(factors).max():
        # One factor for all is a unit.
        return None
    lengths = np.linalg.norm(served[usable], axis=1)
    even = np.ptp(lengths) <= 1e-3 * lengths.max()
    detail = f"scaled to length {np.median(lengths):.3g}" if even else "each scaled by a number of its own"
    return Kind(TRANSFORM, detail, float(same.sum() / len(served)))
