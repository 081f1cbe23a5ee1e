"""Which arm of a canary a request belongs to."""

from enum import StrEnum

from ctr_pipeline.spec.assignment import place_of


class Arm(StrEnum):
    """Whose scores a request got."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    SHADOW = "shadow"
    """The challenger's scores of a request that the champion answered."""


def in_canary(unit: str, trial: str, share: float) -> bool:
    """Whether the challenger answers the requests of ``unit``.

    The units of a canary are drawn by a keyed hash (BLAKE2b): always the same of one trial, others of another trial, and
    all of a smaller share among those of a larger one.

    Args:
        unit: Pseudonym of the user; a digest of the request where it names none.
        trial: Identifier of the trial, the key of the hash.
        share: Share of the units, from 0 to 1.
    """
    return place_of(unit, trial) < share
