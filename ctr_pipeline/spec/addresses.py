"""Addresses of logs in object storage and on web servers, beside the paths of files."""

import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from ctr_pipeline.errors import UserError

_START = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""At least two letters: one alone is a drive of Windows. A path that was made of an address has one slash only."""

_OTHER_NAMES = {"gcs": "gs", "s3a": "s3"}
_SCHEMES = ("s3", "gs", "abfss", "az", "https")
_OWN_HOSTS = ("127.0.0.1", "localhost", "::1")


class AddressError(UserError):
    """An address that is not read. The message has neither a password nor a query."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where an object, a folder of objects, or a pattern of objects lies. Its text never has a signature."""

    scheme: str
    container: str
    """The bucket of S3 and Google; the container of Azure, for ``abfss`` with its account; the server of the web."""
    key: str
    """Name of the object in its container; of an address of the web as it is written there."""
    query: str = field(default="", repr=False, compare=False)
    """What follows the ``?`` of an address of the web. It may hold a signature, so it is shown and stored nowhere."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.container}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The name without its last ending."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The last ending of the name, with its dot."""
        return self._path.suffix

    @property
    def parent(self) -> PurePosixPath:
        """The folders of the key."""
        return self._path.parent

    @property
    def is_web(self) -> bool:
        """Whether a web server is asked for it, which has no listing."""
        return self.scheme in ("https", "http")

    def at(self, key: str) -> "Address":
        """Another object of the same container."""
        return replace(self, key=key)

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(unquote(self.key) if self.is_web else self.key)


def is_address(text: str) -> bool:
    """Whether a text names something by an address rather than by a path."""
    return _START.match(text) is not None


def without_query(text: str) -> str:
    """An address as it may be shown and stored; a path stays as it is."""
    return text.partition("?")[0] if text.lower().startswith(("http:", "https:")) else text


def parse_address(text: str) -> Address:
    """The address that ``text`` writes.

    Raises:
        AddressError: it has a password, names no container, or is of a kind that is not read.
    """
    match = _START.match(text)
    assert match is not None, "is_address says so"
    written = match[1].lower()
    scheme = _OTHER_NAMES.get(written, written)
    # The text may hold a password or a signature, so no message has all of it.
    rest = without_query(text)[match.end() :]
    container, _, key = rest.removeprefix("/").partition("/")
    if scheme not in (*_SCHEMES, "http"):
        raise AddressError(
            f"{written}://: addresses of this kind are not read. Write {', '.join(f'{kind}://' for kind in _SCHEMES)}, or the "
            "path of a file or folder; or copy the files to one of these."
        )
    if not rest.startswith("/"):
        raise AddressError(f"{written}:/: an address has two slashes here, as in {scheme}://NAME/logs. Correct it.")
    user, at, _ = container.partition("@")
    if at and (scheme != "abfss" or ":" in user):
        raise AddressError(
            f"{written}://: this address has a user or a password before the @. Take it out: settings of the environment "
            "hold what is needed to sign in."
        )
    if not container:
        raise AddressError(f"{written}:///{key}: names no bucket, container or server. Write {scheme}://NAME/{key}.")
    if scheme == "abfss" and not at:
        raise AddressError(
            f"abfss://{container}: names no account. Write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/…, or az://CONTAINER/… "
            "with AZURE_STORAGE_ACCOUNT_NAME set."
        )
    if scheme in ("https", "http"):
        return _web(text, scheme)
    return Address(scheme, container, key)


def _web(text: str, scheme: str) -> Address:
    shown = without_query(text)
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        raise AddressError(f"{scheme}://: is no address of a web server. Correct it.") from None
    if scheme == "http" and host not in _OWN_HOSTS:
        raise AddressError(
            f"{shown}: http:// sends logs in the clear, and anyone on the way could change them. Write https://, or copy the "
            "file."
        )
    key = parts.path.removeprefix("/")
    if not key or key.endswith("/"):
        raise AddressError(f"{shown}: names no file, and web servers have no listing. Name each file.")
    if "*" in key:
        raise AddressError(
            f"{shown}: web servers have no listing, so that no pattern can be looked up. Name each file."
        )
    return Address(scheme, parts.netloc, key, parts.query)
