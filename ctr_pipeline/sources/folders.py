"""Which files of a folder belong to a log that names the folder."""

from pathlib import Path, PurePosixPath

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.formats import ENDINGS, format_of
from ctr_pipeline.spec.addresses import Address
from ctr_pipeline.spec.source import LogFiles

HIDDEN = (".", "_")
"""How names of files and folders begin that a folder does not stand for."""


def why_left_out(name: str, log: LogFiles) -> str | None:
    """Why a file of a folder is not read; None when it is, and an empty text where that goes without saying."""
    known = log.format is not None or format_of(PurePosixPath(name)) is not None
    if name.startswith(HIDDEN):
        return "their names start with _" if known and name.startswith("_") else ""
    if known:
        return None
    return (
        f"a folder stands for its files that end in {', '.join(ENDINGS)}, each also with .gz; rename or convert the others, "
        "or name them in `paths` with a `format`"
    )


def no_log_file(folder: Path | Address) -> SourceError:
    """The error of a folder that holds no file of a log."""
    return SourceError(
        f"{folder}: no log file in this folder; looked for {', '.join(ENDINGS)}, each also with .gz. "
        "Put the log there, or set `format` in the spec when its files end differently."
    )
