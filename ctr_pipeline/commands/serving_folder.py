"""The folder that the processes of a service share: what is served, verified copies of it, trials that were ended."""

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.json_files import read_json, write_json

if TYPE_CHECKING:
    from ctr_pipeline.serving import Bundle
    from ctr_pipeline.serving.release import ServedState

KEPT_SECONDS = 3600
"""A copy that nobody is told to serve stays so long: a process may be about to open it."""


@dataclass(frozen=True, slots=True)
class ServingFolder:
    """One folder for each data root; services of the same data root share it."""

    root: Path

    @property
    def state_file(self) -> Path:
        """What is served; replaced as a whole."""
        return self.root / "state.json"

    @property
    def read_file(self) -> Path:
        """Its time of change is when the registry was last read."""
        return self.root / "registry_read"

    @property
    def ended(self) -> Path:
        """Folder of the trials that a server has ended, a file each."""
        return self.root / "ended"

    @property
    def outcomes(self) -> Path:
        """Folder of what the impressions of canaries have led to, a folder for each trial."""
        return self.root / "outcomes"

    def state(self) -> "ServedState | None":
        """What is served; None before the first version is verified."""
        from ctr_pipeline.serving.release import ServedState

        content = read_json(self.state_file)
        return ServedState.from_json(content) if content else None

    def write_state(self, state: "ServedState") -> None:
        """Tells all processes what to serve."""
        write_json(self.state_file, state.to_json())

    def stamp(self) -> tuple[object, ...]:
        """Changes whenever the state or the ended trials do."""
        found = [path.stat() for path in (self.state_file, self.ended) if path.exists()]
        return tuple((one.st_ino, one.st_mtime_ns) for one in found)

    def has(self, sha256: str) -> bool:
        """Whether there is a copy of a bundle."""
        return bool(sha256) and (self.root / "bundles" / sha256).is_dir()

    def copy(self, source: Path, sha256: str) -> "Bundle":
        """A verified copy of a bundle, under its SHA-256, that no retrain changes.

        Args:
            source: Folder of the bundle.
            sha256: What it must be; empty for whatever it is.

        Raises:
            BundleError: it is absent, broken or another one.
        """
        from ctr_pipeline.serving import Bundle, BundleError

        part = self.root / "bundles" / f".part-{time.time_ns()}"
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                shutil.copytree(source, part)
            except FileNotFoundError:
                raise BundleError(f"{source}: there is no such bundle. Export the model first.") from None
            except OSError as error:
                # That of a tree of files has a list of theirs.
                why = error.strerror or "; ".join(str(found[2]) for found in error.args[0])
                raise BundleError(f"{source}: cannot be copied to {part.parent} ({why}). Make room there.") from None
            # The copy is what is verified: the source may change meanwhile.
            found = Bundle.open(part)
            if sha256 and found.sha256 != sha256:
                raise BundleError(
                    f"{source}: its SHA-256 is {found.sha256[:12]}…, but the registry has {sha256[:12]}…. Export it again."
                )
            kept = self.root / "bundles" / found.sha256
            if not self.has(found.sha256):
                part.replace(kept)
            return replace(found, directory=kept)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def remove_damaged(self, sha256: str) -> None:
        """Removes the copy of a bundle that cannot be opened."""
        shutil.rmtree(self.root / "bundles" / sha256, ignore_errors=True)

    def opened(self, sha256: str) -> "Bundle":
        """The copy of a bundle, verified again; a damaged one is removed.

        Raises:
            BundleError: it is absent or damaged.
        """
        from ctr_pipeline.serving import Bundle, BundleError

        folder = self.root / "bundles" / sha256
        try:
            return Bundle.open(folder)
        except BundleError:
            self.remove_damaged(sha256)
            raise

    def remove_unused(self, used: set[str]) -> None:
        """Removes copies that are none of ``used`` and older than :data:`KEPT_SECONDS`."""
        for folder in (self.root / "bundles").glob("*"):
            if folder.name not in used and time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def remove_outcomes(self, trial: str | None) -> None:
        """Removes the outcomes of all trials but ``trial``, once nobody can be about to write them."""
        for folder in self.outcomes.glob("*"):
            if folder.name != trial and time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def end_trial(self, trial: str, reason: str) -> None:
        """Notes that a trial must not go on, for the other processes and for the registry."""
        write_json(self.ended / f"{trial}.json", {"reason": reason})

    def ended_trials(self) -> dict[str, str]:
        """The reasons of the trials that were ended and that the registry may not know of, by identifier."""
        found = {}
        for path in sorted(self.ended.glob("*.json")):
            try:
                found[path.stem] = str(json.loads(path.read_text(encoding="utf-8"))["reason"])
            except FileNotFoundError:
                continue
        return found

    def forget_trial(self, trial: str) -> None:
        """Removes the note of an ended trial, once the registry has it."""
        (self.ended / f"{trial}.json").unlink(missing_ok=True)

    def touch_read(self) -> None:
        """Notes that the registry was read just now."""
        self.read_file.touch()

    def forget_read(self) -> None:
        """Notes that the registry has changed since: a service that starts now waits until it is read again."""
        self.read_file.unlink(missing_ok=True)

    def read_seconds_ago(self) -> float:
        """Seconds since the registry was read last; infinite where it never was, or the clock was set back since."""
        try:
            ago = time.time() - self.read_file.stat().st_mtime
        except FileNotFoundError:
            return float("inf")
        # The clock of files ticks in steps of some milliseconds.
        return ago if ago > -1 else float("inf")
