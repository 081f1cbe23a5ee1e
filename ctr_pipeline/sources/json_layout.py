"""NDJSON files that hold many objects in a line: such a line would be set apart as one row, and many would be lost."""

import json
import re

import polars as pl

from ctr_pipeline.sources.errors import SourceError

_MOST_IN_A_TORN_LINE = 2
"""Objects that a line holds where a writer once left out a line break; with more, the file is written so."""

_ARRAY, _SEVERAL = r"^\[\s*(?:\{|$)", r"\}[\s,]*\{"


def refuse_many_in_a_line(path: str, lines: pl.Series, rows: pl.Series) -> None:
    """Raises when the file is a JSON array, or writes objects one after the other without line breaks.

    Args:
        path: The file, for the message.
        lines: Its lines that are no object; null where one is no text.
        rows: Their 0-based row numbers.

    Raises:
        SourceError: a line begins an array of objects, or holds three objects or more.
    """
    suspect = lines.str.contains(f"{_ARRAY}|{_SEVERAL}").fill_null(False)
    for row, line in zip(rows.filter(suspect), lines.filter(suspect), strict=True):
        if re.match(_ARRAY, line):
            raise SourceError(
                f"{path}: a JSON array begins in row {row + 1}, and each line is one row here, so the rows in it would be "
                "lost. Write one object a line, without the array: jq -c '.[]'."
            )
        if _objects_in(line) > _MOST_IN_A_TORN_LINE:
            raise SourceError(
                f"{path}: row {row + 1} is a line with several JSON objects, and each line is one row here, so the rows in it "
                "would be lost. Write one object a line: jq -c ."
            )


def _objects_in(line: str) -> int:
    """How many objects stand one after the other at the start of ``line``; no more are counted than matter."""
    decoder, at, found = json.JSONDecoder(), 0, 0
    try:
        while found <= _MOST_IN_A_TORN_LINE and line.startswith("{", at):
            _, at = decoder.raw_decode(line, at)
            found += 1
            at += len(line[at:]) - len(line[at:].lstrip(" \t\r,"))
    except (ValueError, RecursionError):
        pass
    return found
