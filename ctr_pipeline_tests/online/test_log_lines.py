"""Lines of a growing file: the same ones however the file is cut into parts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.online import log_lines
from ctr_pipeline.online.log_lines import lines_of

PIECES = st.lists(st.sampled_from([b"\n", b" ", b"{}", b"ab", b"\r\n", b"x" * 7, b"y" * 8, b"z" * 30]), max_size=40)


@given(pieces=PIECES, cuts=st.lists(st.integers(0, 300)), most=st.integers(1, 5))
def test_all_parts_together_give_the_lines_of_the_whole(pieces: list[bytes], cuts: list[int], most: int) -> None:
    data = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_lines, "MOST_LINE", 7)
        whole, long, offset, within = [], [], 0, False
        ends = [*sorted({min(cut, len(data)) for cut in cuts}), len(data), len(data)]
        for _, end in pairwise([0, *ends]):
            while True:
                found = lines_of(data[offset:end], offset, within, most)
                assert found.offset >= offset
                assert len(found.whole) + len(found.long) <= most + 1
                if (found.offset, found.within_long) == (offset, within):
                    break
                offset, within = found.offset, found.within_long
                whole += found.whole
                long += found.long
    # One at a time, by another way.
    lines, at = [], 0
    for line in data.split(b"\n"):
        lines.append((at, line))
        at += len(line) + 1
    assert whole == [(at, line) for at, line in lines[:-1] if line.strip() and len(line) <= 7]
    assert long == [at for at, line in lines if len(line) > 7]
    last, rest = lines[-1]
    assert (offset, within) == ((len(data), True) if len(rest) > 7 else (last, False))


def test_a_mark_of_the_encoding_is_no_part_of_the_first_line() -> None:
    found = lines_of(b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n", 0, False, 9)
    assert found.whole == ((0, b"{}"), (6, b"\xef\xbb\xbf{}"))
