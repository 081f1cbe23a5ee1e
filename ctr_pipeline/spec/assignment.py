"""Which units a declared share means: the keyed hash that canaries and experiments draw users by."""

import hashlib

CONTROL, TREATMENT = "control", "treatment"
"""The arms of an experiment."""


def place_of(unit: str, key: str) -> float:
    """The place of a unit in [0, 1): uniform over units, always the same of one key, independent of that of another.

    A share of the units is those whose place is below it, so that a smaller share is a part of a larger one.

    Args:
        unit: Pseudonym of a user, or another identifier.
        key: What is drawn for, such as the identifier of a canary: the key of the hash (BLAKE2b).
    """
    digest = hashlib.blake2b(unit.encode(), key=hashlib.sha256(key.encode()).digest(), digest_size=8).digest()
    # 53 bits: a float holds them exactly, so that no place is rounded up to 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def arm_in(unit: str, experiment: str, share: float, treated: float) -> str | None:
    """The arm of a unit in an experiment; None where it takes no part.

    Whether it takes part and in which arm are two independent draws: a larger ``share`` adds units, and moves none from one arm
    to the other.

    Args:
        unit: Pseudonym of a user, or another identifier.
        experiment: Name of the experiment, the key of the draws.
        share: Share of the units that take part.
        treated: Share of those that are treated.
    """
    if place_of(unit, f"{experiment}/users") >= share:
        return None
    return TREATMENT if place_of(unit, f"{experiment}/arm") < treated else CONTROL
