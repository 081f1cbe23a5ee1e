"""Reads raw logs, replaces ids by keyed hashes at the door, and sets aside what breaks the contract."""

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.files import log_files, source_fingerprint
from ctr_pipeline.sources.impressions import log_range, read_impressions
from ctr_pipeline.sources.outcomes import read_events
from ctr_pipeline.sources.pseudonyms import Pseudonymiser, load_or_create_key
from ctr_pipeline.sources.quarantine import QUARANTINE_SCHEMA, ReadResult

__all__ = [
    "QUARANTINE_SCHEMA",
    "Pseudonymiser",
    "ReadResult",
    "SourceError",
    "load_or_create_key",
    "log_files",
    "log_range",
    "read_events",
    "read_impressions",
    "source_fingerprint",
]
