"""Finds the raw logs of a deployment, and has the simulator write its own."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.settings import PipelineSettings

if TYPE_CHECKING:
    from ctr_pipeline.sources import Pseudonymiser

KEY_VARIABLE = "CTR_PSEUDONYM_KEY"
KEY_FILE_VARIABLE = "CTR_PSEUDONYM_KEY_FILE"
KEY_NOTE = "key_fingerprint"
"""File in the data root that tells under which key its tables were read."""


def impression_files(settings: PipelineSettings) -> tuple[Path, ...]:
    """The files of the impression log.

    Raises:
        SourceError: there are none.
    """
    from ctr_pipeline.sources import log_files

    source = settings.spec.source
    if source.simulator is not None:
        return tuple(sorted((settings.simulated_root / "impressions").glob("*.parquet")))
    return log_files(source.impressions, settings.spec_folder, settings.inputs)


def outcome_files(settings: PipelineSettings) -> dict[str, tuple[Path, ...]]:
    """The files of each event log, by the log's name.

    Raises:
        SourceError: a declared log has none.
    """
    from ctr_pipeline.sources import log_files

    source = settings.spec.source
    if source.simulator is not None:
        return {"outcome_events": tuple(sorted((settings.simulated_root / "events").glob("*.parquet")))}
    return {
        log.name: log_files(log, settings.spec_folder, settings.event_inputs.get(log.name, ())) for log in source.events
    }


def reading_time(settings: PipelineSettings) -> int | None:
    """The present instant in microseconds, after which a log knows nothing; None for simulated logs."""
    return time.time_ns() // 1_000 if settings.spec.source.simulator is None else None


def ensure_logs(settings: PipelineSettings, last: date, progress: Callable[[str], None]) -> None:
    """Has the simulator write the days up to ``last`` that are not there; nothing to do for a user's own logs."""
    simulator = settings.spec.source.simulator
    if simulator is None:
        return
    from ctr_pipeline.simulator import write_days

    days = [settings.first_day + timedelta(days=n) for n in range((last - settings.first_day).days + 1)]
    missing = [day for day in days if not _written(settings.simulated_root, day)]
    if not missing:
        return
    progress(f"Simulating {len(missing)} days of logs in {settings.simulated_root}")
    write_days(simulator, settings.spec.seed, missing, settings.simulated_root, progress=_every(missing, progress))


def pseudonymiser(environment: Mapping[str, str]) -> "Pseudonymiser":
    """Hashes ids with the key in ``CTR_PSEUDONYM_KEY``, or with that of a key file, which is made on first use.

    The file is ``CTR_PSEUDONYM_KEY_FILE``, by default ``ctr_pipeline/pseudonym.key`` in the user's configuration
    folder: apart from the data that it protects, and the same for all data roots, so that their hashes agree.
    """
    from ctr_pipeline.sources import Pseudonymiser, load_or_create_key

    key = environment.get(KEY_VARIABLE)
    return Pseudonymiser(key.encode() if key else load_or_create_key(key_path(environment)))


def key_fingerprint(environment: Mapping[str, str]) -> str:
    """Tells two keys apart without saying anything of either."""
    key = environment.get(KEY_VARIABLE, "").encode()
    if not key:
        from ctr_pipeline.sources import load_or_create_key

        key = load_or_create_key(key_path(environment))
    return hashlib.blake2b(b"fingerprint", key=hashlib.sha256(key).digest(), digest_size=8).hexdigest()


def key_has_changed(data_root: Path, environment: Mapping[str, str]) -> bool:
    """Whether the key is another one than at the last call for this data root; notes the key in use."""
    note, fingerprint = data_root / KEY_NOTE, key_fingerprint(environment)
    before = note.read_text(encoding="ascii").strip() if note.is_file() else fingerprint
    if before != fingerprint or not note.is_file():
        note.write_text(fingerprint + "\n", encoding="ascii")
    return before != fingerprint


def key_path(environment: Mapping[str, str]) -> Path:
    """Where the key file lies, unless ``CTR_PSEUDONYM_KEY`` gives the key itself."""
    named = environment.get(KEY_FILE_VARIABLE)
    if named:
        return Path(named)
    folder = environment.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path.home() / ".config") / "ctr_pipeline" / "pseudonym.key"


def _written(root: Path, day: date) -> bool:
    return all((root / kind / f"{day.isoformat()}.parquet").is_file() for kind in ("impressions", "events"))


def _every(days: Sequence[date], progress: Callable[[str], None]) -> Callable[[date], None]:
    step = max(1, len(days) // 10)

    def report(day: date) -> None:
        done = days.index(day) + 1
        if done % step == 0 or done == len(days):
            progress(f"Simulated {done} of {len(days)} days")

    return report
