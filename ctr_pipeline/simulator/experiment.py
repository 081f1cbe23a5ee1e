"""The declared experiment: who is in which arm, and what the treatment does."""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.simulator.auction import Sessions
from ctr_pipeline.simulator.world import Floats, World
from ctr_pipeline.spec.assignment import CONTROL, TREATMENT, arm_in

ARMS = (CONTROL, TREATMENT)
"""The values of the column `experiment_arm`; the index is the code of an arm."""


@dataclass(frozen=True, slots=True)
class Effects:
    """By page [n]: the arm, -1 for none, and what the probabilities of a click and of the step after it are multiplied with."""

    arm: NDArray[np.int8]
    click: Floats
    next_step: Floats


def arms_of_users(world: World) -> NDArray[np.int8]:
    """The arm of each user [users], -1 for who takes no part or where there is no experiment."""
    declared = world.settings.experiment
    if declared is None:
        return np.full(len(world.users.ids), -1, np.int8)
    codes = {None: -1, CONTROL: 0, TREATMENT: 1}
    drawn = (arm_in(user.decode(), declared.name, declared.share, declared.treated) for user in world.users.ids)
    return np.fromiter((codes[arm] for arm in drawn), np.int8, len(world.users.ids))


def effects_of_day(world: World, day: date, sessions: Sessions, arms: NDArray[np.int8]) -> Effects | None:
    """What the experiment does to the pages of ``day``; None without an experiment in the settings.

    Args:
        world: The marketplace.
        day: The day.
        sessions: Its pages [n].
        arms: Of :func:`arms_of_users`.
    """
    declared = world.settings.experiment
    if declared is None:
        return None
    arm = arms[sessions.user] if declared.holds(day) else np.full(len(sessions.user), -1, np.int8)
    treated = arm == ARMS.index(TREATMENT)
    return Effects(
        arm,
        np.where(treated, np.float32(1 + declared.click), np.float32(1)),
        np.where(treated, np.float32(1 + declared.next_step), np.float32(1)),
    )
