"""Which tests run one after another in the same process, and in which order the processes take them up."""

from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

ENGINES, SERVERS = "engines", "servers"
"""Groups of several files: Spark's Java process and the servers of the pages are started once for all of a group."""

ONE_PROCESS = {"sessions": ENGINES, "servers": SERVERS}
"""Fixtures whose tests all belong to one group."""


def group_of(nodeid: str) -> str:
    """The tests of a group run in one process, as their fixtures are made in it: those of a file, or of several."""
    file = PurePosixPath(nodeid.partition("::")[0])
    if file.name == "test_engines.py":
        return ENGINES
    if file.name == "test_servers.py" or file.parent.name == "browser":
        return SERVERS
    return str(file)


class ByGroup(LoadScopeScheduling):
    """Hands out one group after another, in the order of collection.

    The mode `loadgroup` of pytest-xdist 3.8 does not see the groups' names with pytest 9.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def arrange(items: list[pytest.Item]) -> None:
    """Marks tests by what they use, and puts the longest groups first, so that all processes end together."""
    for item in items:
        fixtures = item.fixturenames if isinstance(item, pytest.Function) else ()
        if "config_home" in fixtures:
            item.add_marker("end_to_end")
        if "browser" in fixtures:
            item.add_marker("browser")
        if "sessions" in fixtures and "spark" in item.name:
            item.add_marker("spark")
        for name, group in ONE_PROCESS.items():
            if name in fixtures and group_of(item.nodeid) != group:
                raise pytest.UsageError(
                    f"{item.nodeid} uses the fixture {name}, but its file is not of the group {group}: it would be made "
                    "in a second process. Rename the file, or extend group_of in ctr_pipeline_tests/side_by_side.py."
                )
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[int, bool]:
    # One of these two waits for the run that the tests of the command line read, the other does not.
    groups = (SERVERS, ENGINES)
    group = group_of(item.nodeid)
    if group in groups:
        # The servers end with the last of the tests in a row that use them: no other test may stand in between.
        without_servers = group == SERVERS and "servers" not in getattr(item, "fixturenames", ())
        return groups.index(group), without_servers
    return len(groups) + (item.get_closest_marker("end_to_end") is None), False
