"""Reads raw logs, replaces ids by keyed hashes at ingestion, and sets aside what breaks the contract."""

from ctr_pipeline.sources.contract import EVENT_SCHEMA
from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.event_references import find_broken_references, reference_quarantine, referring, refers
from ctr_pipeline.sources.extent import log_range
from ctr_pipeline.sources.impressions import read_impressions
from ctr_pipeline.sources.listed_files import ListedFile, Listing, Logs, source_fingerprint
from ctr_pipeline.sources.listing import list_files
from ctr_pipeline.sources.outcomes import read_events
from ctr_pipeline.sources.pseudonyms import Pseudonymiser, load_or_create_key
from ctr_pipeline.sources.quarantine import QUARANTINE_SCHEMA, ReadResult
from ctr_pipeline.sources.side_tables import SideRows, read_side_table
from ctr_pipeline.sources.tally import ReadTally

__all__ = [
    "EVENT_SCHEMA",
    "QUARANTINE_SCHEMA",
    "ListedFile",
    "Listing",
    "Logs",
    "Pseudonymiser",
    "ReadResult",
    "ReadTally",
    "SideRows",
    "SourceError",
    "find_broken_references",
    "list_files",
    "load_or_create_key",
    "log_range",
    "read_events",
    "read_impressions",
    "read_side_table",
    "reference_quarantine",
    "referring",
    "refers",
    "source_fingerprint",
]
