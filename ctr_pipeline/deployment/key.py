"""The key of the hashes that stand for ids: where it is found, and its fingerprint."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    from ctr_pipeline.sources import Pseudonymiser

KEY_NOTE = "key_fingerprint"
"""File in the data root that names the key under which its tables were read."""


class KeyMissingError(UserError):
    """There is no key of the hashes."""


def pseudonymiser(environment: Environment) -> "Pseudonymiser":
    """Hashes ids with the deployment's key; a key file that is absent is made."""
    from ctr_pipeline.sources import Pseudonymiser

    return Pseudonymiser(_key(environment))


def key_fingerprint(environment: Environment) -> str:
    """Distinguishes the key from others without revealing it."""
    digest = hashlib.sha256(_key(environment)).digest()
    return hashlib.blake2b(b"fingerprint", key=digest, digest_size=8).hexdigest()


def existing_pseudonymiser(environment: Environment) -> "Pseudonymiser":
    """As :func:`pseudonymiser`, for ids that were hashed before: no key is made.

    Raises:
        KeyMissingError: there is no key.
    """
    if not has_key(environment):
        raise KeyMissingError(
            f"there is no key that ids were hashed with: CTR_PSEUDONYM_KEY is not set and {environment.key_file} is "
            "absent. Name the key of the deployment, or give the hash itself."
        )
    return pseudonymiser(environment)


def has_key(environment: Environment) -> bool:
    """Whether there is a key already."""
    return bool(environment.pseudonym_key) or environment.key_file.is_file()


def key_has_changed(data_root: Path, environment: Environment) -> bool:
    """Whether the key is another one than at the last call for this data root; records the key in use."""
    note, fingerprint = data_root / KEY_NOTE, key_fingerprint(environment)
    before = note.read_text(encoding="ascii").strip() if note.is_file() else fingerprint
    if before != fingerprint or not note.is_file():
        note.write_text(fingerprint + "\n", encoding="ascii")
    return before != fingerprint


def _key(environment: Environment) -> bytes:
    from ctr_pipeline.sources import load_or_create_key

    return environment.pseudonym_key.encode() or load_or_create_key(environment.key_file)
