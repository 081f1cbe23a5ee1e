"""Where a retrain lies that is compared with another: its own folders, or those where it was kept when another took its place."""

from dataclasses import dataclass
from pathlib import Path

from ctr_pipeline.deployment.paths import DataRoot, RetrainPaths
from ctr_pipeline.deployment.replaced_retrains import replaced_retrain
from ctr_pipeline.errors import UserError


class NoRetrainError(UserError):
    """There is no retrain where one was named, or what it was made from is gone."""


@dataclass(frozen=True, slots=True)
class RetrainPlace:
    """A retrain: the data root that it lies in, and its day."""

    root: Path
    day: str
    replaced: RetrainPaths | None = None
    """Its files, where another retrain of the day took its place."""

    @property
    def paths(self) -> RetrainPaths:
        """Its files."""
        return self.replaced or DataRoot(self.root).retrain(self.day)

    @property
    def lake(self) -> Path:
        """Folder of the tables that it read."""
        return DataRoot(self.root).lake

    @classmethod
    def of_folder(cls, folder: Path) -> "RetrainPlace":
        """The retrain whose training lies in ``folder``, ``<data root>/training/<day>``.

        Raises:
            NoRetrainError: there is none.
        """
        found = folder.resolve()
        if found.parent.name != "training" or not (found / "spec.yaml").is_file():
            raise NoRetrainError(
                f"{folder}: no retrain here. Name a folder such as data/ads/training/2026-02-21, with spec.yaml and result.json."
            )
        root, day = found.parents[1], found.name
        if root == DataRoot(root.parent).replaced(day).training.parents[1]:
            return cls(
                root.parent, day, replaced_retrain(DataRoot(root.parent), day) or DataRoot(root.parent).replaced(day)
            )
        return cls(root, day)
