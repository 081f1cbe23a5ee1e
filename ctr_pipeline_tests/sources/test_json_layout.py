"""JSON files that are not one object a line: their rows are not lost as one malformed line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctr_pipeline.sources import SourceError

Maker = Callable[..., Any]

REFUSED: dict[str, tuple[str, str]] = {
    "an array in a line": ("[{}]", ", "),
    "an array of a row": ("[{}]", ",\n"),
    "an array with its brackets apart": ("[\n{}\n]\n", ",\n"),
    "no line breaks": ("{}", ""),
    "blanks for line breaks": ("{}", " "),
    "commas for line breaks": ("{}", ","),
    "CR for line breaks": ("{}", "\r"),
    "some line breaks": ("\n{}\n", "\t"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("frame", "between"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("rows", [3, 24])
def test_a_file_whose_rows_would_be_lost_is_refused(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    read: Maker,
    tmp_path: Path,
    frame: str,
    between: str,
    packed: bool,
    rows: int,
) -> None:
    objects = [json.dumps(row | {"at": row["at"].isoformat()}) for row in make_log(rows).iter_rows(named=True)]
    content = frame.replace("{}", between.join(objects)).encode()
    path = tmp_path / ("log.ndjson.gz" if packed else "log.ndjson")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(SourceError, match=r"row 1\b.* so the rows in it would be lost\. Write one object a line"):
        # Beside many good rows, one malformed line would pass.
        read(make_spec(), write(make_log(rows=60)), path)


@pytest.mark.parametrize(
    "line",
    [
        "{} {}",
        '{"id": "a"}, {"id": "b"}',
        '{"id": "a"}{"id": "b"',
        '{"id": {"a": "}{}{}{"}}{',
        "[1, 2]",
        '["{}{}{}"]',
        "}{}{}{",
    ],
)
def test_a_torn_line_is_one_malformed_row(
    make_spec: Maker, make_log: Maker, write: Maker, read: Maker, tmp_path: Path, line: str
) -> None:
    path = tmp_path / "b.ndjson"
    path.write_text(line + "\n")
    found = read(make_spec(), write(make_log(rows=24)), path)
    assert (found.kept.height, found.quarantined["reason"].to_list()) == (24, ["malformed_row"])
