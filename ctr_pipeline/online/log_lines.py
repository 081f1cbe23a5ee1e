"""Whole lines of a file that grows, from wherever its reading had come to."""

from dataclasses import dataclass

MOST_LINE = 64 * 2**10
"""Bytes of a line; a longer one is no event, and is passed over without being held in memory."""

_MARK = b"\xef\xbb\xbf"
"""What some programs write before UTF-8."""


@dataclass(frozen=True, slots=True)
class Lines:
    """What a part of a file holds."""

    whole: tuple[tuple[int, bytes], ...]
    """Lines with the byte in the file at which they begin, without their end; blank ones are left out."""
    long: tuple[int, ...]
    """Where lines of more than :data:`MOST_LINE` bytes begin."""
    offset: int
    """The byte up to which the file is read: the beginning of a line, or a place within one that is passed over."""
    within_long: bool
    """Whether it is within such a line."""


def lines_of(data: bytes, offset: int, within_long: bool, most: int) -> Lines:
    """The whole lines at the beginning of ``data``; what comes after the last end of a line waits for the rest of it.

    However a file is cut into parts, all parts together give the same lines.

    Args:
        data: Bytes of the file from ``offset`` on.
        offset: As :attr:`Lines.offset` of the part before; 0 at the beginning.
        within_long: As :attr:`Lines.within_long` of the part before.
        most: Lines at most.
    """
    whole: list[tuple[int, bytes]] = []
    long: list[int] = []
    at = 0
    for _ in range(most):
        end = data.find(b"\n", at)
        if end < 0:
            break
        line = data[at:end]
        if within_long:
            within_long = False
        elif len(line) > MOST_LINE:
            long.append(offset + at)
        elif line.strip():
            whole.append((offset + at, line.removeprefix(_MARK) if offset + at == 0 else line))
        at = end + 1
    else:
        return Lines(tuple(whole), tuple(long), offset + at, within_long)
    if within_long:
        at = len(data)
    elif len(data) - at > MOST_LINE:
        long.append(offset + at)
        at, within_long = len(data), True
    return Lines(tuple(whole), tuple(long), offset + at, within_long)
