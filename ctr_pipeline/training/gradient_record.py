"""The detailed measurements of a run, as Parquet: written in parts while it runs, one file when it ends."""

import shutil
from pathlib import Path

import polars as pl

from ctr_pipeline.gradients.core.step_view import TensorRow

PART = 20_000
"""Rows of a part, at least, but for the ones that end at a checkpoint."""

_SCHEMA = {"step": pl.Int64, "tensor": pl.String, "kind": pl.String, "stat": pl.String, "value": pl.Float64}


class GradientRecord:
    """Rows in long form (step, tensor, kind, stat, value), of which few are in memory and none in a checkpoint.

    Args:
        path: The file that has all rows in the end; its parts lie in a folder beside it until then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.with_name(f"{path.stem}_parts")
        self.parts = 0

    def start(self, parts: int = 0) -> None:
        """Keep the first ``parts`` parts, those of a checkpoint, and remove what was written behind it."""
        self.parts = parts
        for path in self._folder.glob("*.parquet"):
            if int(path.stem) >= parts:
                path.unlink()
        if not parts:
            self._path.unlink(missing_ok=True)

    def write(self, rows: list[TensorRow], *, all_of_them: bool) -> None:
        """Move ``rows`` into a part: once there are enough of them, or ``all_of_them`` at a checkpoint."""
        if not rows or (len(rows) < PART and not all_of_them):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / "part.partial"
        pl.DataFrame(rows, schema=_SCHEMA, orient="row").write_parquet(partial)
        # By rename: a process that is killed here leaves no part that cannot be read.
        partial.replace(self._part(self.parts))
        self.parts += 1
        rows.clear()

    def close(self, rows: list[TensorRow], *, finished: bool) -> None:
        """Write the file from all parts; they are kept where the run is not ``finished`` and may go on."""
        self.write(rows, all_of_them=True)
        parts = [path for path in map(self._part, range(self.parts)) if path.is_file()]
        if parts:
            pl.scan_parquet(parts).sink_parquet(self._path)
        elif not self._path.is_file():
            pl.DataFrame(schema=_SCHEMA).write_parquet(self._path)
        if finished:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:06}.parquet"
