"""What a fit of the ranker writes, and where."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

SCORED = ("validation", "calibration", "test")
"""Parts of a dataset that are scored after training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """Files of one fit."""

    model: Path
    """Weights of the best epoch."""
    checkpoint: Path
    steps: Path
    validation: Path
    gradients: Path
    failed_step: Path
    scores: Path
    """Folder of the scores."""
    scored: tuple[str, ...]
    """Parts that are scored with this fit."""
    position: Path | None
    """What was learnt of the positions, of the fit whose model is used."""

    @classmethod
    def of(cls, output: Path) -> Self:
        """Those of the only fit, in the job's output directory."""
        return cls._in(output, output, model="model.pt", scored=SCORED)

    @classmethod
    def before_refit(cls, output: Path) -> Self:
        """Those of the fit that chooses the epochs, where the ranker is fitted again; only it has not seen validation."""
        return cls._in(output, output, model="before_refit.pt", scored=SCORED[:1])

    @classmethod
    def of_refit(cls, output: Path) -> Self:
        """Those of the second fit: the model of the job and its scores; the rest in a folder of its own."""
        return cls._in(output / "refit", output, model="model.pt", scored=SCORED[1:])

    @classmethod
    def _in(cls, folder: Path, output: Path, *, model: str, scored: tuple[str, ...]) -> Self:
        return cls(
            model=output / model,
            checkpoint=folder / "checkpoint.pt",
            steps=folder / "steps.jsonl",
            validation=folder / "validation.jsonl",
            gradients=folder / "gradients.parquet",
            failed_step=output / "failed_step",
            scores=output / "scores",
            scored=scored,
            position=output / "position.json" if "test" in scored else None,
        )

    def remove_earlier_run(self) -> None:
        """Removes what a run could be continued from, or an earlier one be mistaken by."""
        digest = self.checkpoint.with_name(f"{self.checkpoint.name}.sha256")
        for path in (self.checkpoint, digest, self.model):
            path.unlink(missing_ok=True)
