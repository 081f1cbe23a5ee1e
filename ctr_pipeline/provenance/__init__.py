"""From what a model was made: table versions, libraries, hardware, code."""

from ctr_pipeline.provenance.lineage import Lineage, environment_info
from ctr_pipeline.provenance.source_code import code_digest, code_version, extension_digests, file_digests

__all__ = ["Lineage", "code_digest", "code_version", "environment_info", "extension_digests", "file_digests"]
