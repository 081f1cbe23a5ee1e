"""Keyed hashes that replace ids before anything is written."""

import hashlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import polars_hash  # noqa: F401  (registers the expression namespace `chash`)

from ctr_pipeline.sources.errors import SourceError

PSEUDONYM_LENGTH = 32
"""Hex digits of a pseudonym: 128 bits, so that a billion ids collide with a probability of about 1e-21."""

_SHORTEST_KEY = 16
_BLOCK = 64
"""Bytes that SHA-256 reads at a time."""


@dataclass(frozen=True, slots=True)
class Pseudonymiser:
    """HMAC-SHA-256 (RFC 2104) with a secret key, cut to 32 hex digits. Without the key an id cannot be recomputed."""

    key: bytes = field(repr=False)
    _inner: Any = field(init=False, repr=False, compare=False)
    """SHA-256 that has read the key's inner block."""
    _outer: Any = field(init=False, repr=False, compare=False)
    """The same of its outer block."""

    def __post_init__(self) -> None:
        try:
            text = self.key.decode("ascii")
        except UnicodeDecodeError:
            text = ""
        if len(text) < _SHORTEST_KEY:
            raise SourceError(
                f"the key that hashes ids must have at least {_SHORTEST_KEY} ASCII characters, such as 64 hex digits. "
                "Make one with `openssl rand -hex 32`."
            )
        block = (self.key if len(self.key) <= _BLOCK else hashlib.sha256(self.key).digest()).ljust(_BLOCK, b"\0")
        object.__setattr__(self, "_inner", hashlib.sha256(bytes(byte ^ 0x36 for byte in block)))
        object.__setattr__(self, "_outer", hashlib.sha256(bytes(byte ^ 0x5C for byte in block)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Pseudonymiser, (self.key,)

    def expr(self, column: str) -> pl.Expr:
        """The pseudonyms of the text column ``column``; null stays null."""
        return self.of(pl.col(column))

    def of(self, text: pl.Expr) -> pl.Expr:
        """The pseudonyms of a text expression; null stays null."""
        hashed: pl.Expr = text.chash.hmac_sha256(key=self.key.decode("ascii"))  # type: ignore[attr-defined]
        return hashed.str.head(PSEUDONYM_LENGTH)

    def of_text(self, text: str) -> str:
        """The pseudonym of one text: what :meth:`of` gives, without a data frame."""
        # As RFC 2104 says, from copies of what has read the key: a request waits for it.
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text.encode())
        outer.update(inner.digest())
        hashed: str = outer.hexdigest()
        return hashed[:PSEUDONYM_LENGTH]


def load_or_create_key(path: Path) -> bytes:
    """The key in ``path``: 64 hex digits, made from 32 random bytes when the file is absent.

    The file is readable by its owner only. Two processes that start together get the same key.

    Raises:
        SourceError: the file is unreadable or holds no usable key.
    """
    try:
        if not path.exists():
            _create(path, secrets.token_hex(32))
        key = path.read_bytes().strip()
    except OSError as error:
        raise SourceError(
            f"{path}: the key file cannot be read or made ({error.strerror}). Check the folder's permissions."
        ) from None
    if len(key) < _SHORTEST_KEY:
        raise SourceError(
            f"{path}: holds no usable key ({len(key)} characters). Restore the file from a backup: ids hashed with "
            "another key no longer match. To start afresh, delete the file and the data root."
        )
    return key


def _create(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(content + "\n")
    try:
        # A link fails where the file exists, so the process that comes second reads the first one's key.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
