"""Reading from object storage and web servers, through obstore; the environment says to it how to sign in and where."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, TypeVar

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.listed_files import ListedFile, changed
from ctr_pipeline.sources.storage_errors import (
    StorageError,
    is_absent,
    is_broken_off,
    is_empty_range,
    settings_error,
    storage_error,
)
from ctr_pipeline.spec.addresses import Address

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")

RETRIES = 7
"""A failed request is repeated so often, with pauses that grow."""

FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
"""Pauses before a request is repeated, in seconds."""

_BLOCK_BYTES = 8 << 20
_LONGEST_RETRYING = timedelta(minutes=3)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Storage:
    """A bucket, a container, or a file of a web server, with the credentials that the environment has."""

    def __init__(self, address: Address) -> None:
        """Looks for settings, and connects to nothing yet.

        Raises:
            StorageError: they are incomplete.
        """
        try:
            self._store = _store(address)
        except _errors():
            raise settings_error(address) from None
        self._last: tuple[tuple[StoredObject, int, int], bytes] | None = None

    def find(self, address: Address, label: str) -> "StoredObject | None":
        """The object at an address, as it is now; None when there is none.

        Raises:
            StorageError: it cannot be looked at.
        """
        try:
            meta, _ = self._get(address, (0, 1))
        except _errors() as error:
            if is_absent(error):
                return None
            if not is_empty_range(error):
                raise storage_error(error, address, RETRIES + 1) from None
            meta, _ = _answer(lambda: self._get(address, None), address)
        return self._found(meta, address, label)

    def below(self, folder: Address) -> "list[StoredObject]":
        """All objects in a folder and its sub-folders, labelled by their keys.

        Raises:
            StorageError: they cannot be listed.
        """
        import obstore

        prefix = folder.key.strip("/") or None
        found = _answer(lambda: repeated(lambda: obstore.list(self._store, prefix, chunk_size=1_000).collect()), folder)
        return [self._found(meta, folder.at(meta["path"]), meta["path"]) for meta in found]

    def names_in(self, folder: Address) -> list[str]:
        """Names of the objects and folders in a folder.

        Raises:
            StorageError: they cannot be listed.
        """
        import obstore

        prefix = folder.key.strip("/") or None
        found = _answer(lambda: repeated(lambda: obstore.list_with_delimiter(self._store, prefix)), folder)
        keys = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        return sorted(key.rpartition("/")[2] for key in keys if key != folder.key.strip("/"))

    def read(self, found: "StoredObject", start: int, end: int) -> bytes:
        """Some bytes of an object, all of them or none.

        Raises:
            StorageError: it cannot be read.
            SourceError: it was written to since it was listed.
        """
        from obstore.exceptions import PreconditionError

        wanted = (found, start, end)
        if self._last is not None and self._last[0] == wanted:
            # The beginning of a text file is looked at for its header, its kind, its keys, and then read.
            return self._last[1]
        if found.is_tagged:
            try:
                meta, content = self._get(found.path, (start, end), found.version)
            except PreconditionError:
                raise changed(found.path, "it has another content now") from None
            except _errors() as error:
                raise storage_error(error, found.path, RETRIES + 1) from None
        else:
            meta, content = _answer(lambda: repeated(lambda: self._get(found.path, (start, end))), found.path)
        now = self._found(meta, found.path, found.label)
        if now.stamp != found.stamp or len(content) != end - start:
            raise changed(found.path, f"{found.size} bytes when it was listed, {now.size} now")
        self._last = wanted, content
        return content

    def _get(
        self, address: Address, bytes_of: tuple[int, int] | None, version: str | None = None
    ) -> "tuple[ObjectMeta, bytes]":
        """An object as it is, and some of its bytes; none of them for no range.

        Not by HEAD: an answer to that does not say what is wrong, and an address that is signed for reading refuses it.
        """
        import obstore

        options: GetOptions = {} if bytes_of is None else {"range": bytes_of}
        if version is not None:
            options["if_match"] = version
        found = obstore.get(self._store, "" if address.is_web else address.key, options=options)
        return found.meta, b"" if bytes_of is None else bytes(found.bytes())

    def _found(self, meta: "ObjectMeta", address: Address, label: str) -> "StoredObject":
        tag, written = meta["e_tag"], meta["last_modified"]
        if tag is None and written == _NEVER:
            raise StorageError(
                f"{address}: the server says neither when the file was written (Last-Modified) nor gives it an ETag, so that a "
                "change of it would go unseen. Download it, and name it by its path."
            )
        # Azure has quotes in some answers, and none in others. Where a tag is weak, the bytes may differ.
        version = (
            f"{written:%Y-%m-%dT%H:%M:%SZ}"
            if tag is None
            else tag
            if tag.startswith("W/")
            else f'"{tag.strip(chr(34))}"'
        )
        return StoredObject(path=address, label=label, size=meta["size"], version=version, storage=self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject(ListedFile):
    """An object of a storage, or a file of a web server."""

    path: Address
    version: str
    """Its ETag, or where it has none the second in which it was written."""
    storage: Storage = field(repr=False, compare=False)

    @property
    def stamp(self) -> str:
        """Its size and version."""
        return f"{self.size}:{self.version}"

    @property
    def is_tagged(self) -> bool:
        """Whether a part can be asked for under the condition that the content is still this one."""
        return self.version.startswith('"')

    def called(self, label: str) -> "StoredObject":
        """The same object with another label."""
        return replace(self, label=label)

    def again(self) -> "StoredObject":
        """The object as it is now."""
        now = self.storage.find(self.path, self.label)
        if now is None:
            raise SourceError(f"{self.path}: no such object. Restore it, or correct the log's paths.")
        return now

    def stream(self) -> IO[bytes]:
        """The object from its first byte on, a block at a time."""
        return io.BufferedReader(_Reader(self), _BLOCK_BYTES)

    def random_access(self) -> IO[bytes]:
        """The content of a small object; else a stream that fetches no more than what is asked for."""
        if self.size <= _BLOCK_BYTES:
            return io.BytesIO(self.storage.read(self, 0, self.size))
        return _Reader(self)  # type: ignore[return-value]


class _Reader(io.RawIOBase):
    """The bytes of an object, fetched as they are read; nothing lies on disk."""

    def __init__(self, found: StoredObject) -> None:
        super().__init__()
        self._found = found
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._found.size}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._next(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._next(_BLOCK_BYTES), b""))

    def _next(self, count: int) -> bytes:
        end = min(self._position + count, self._found.size)
        if end <= self._position:
            return b""
        content = self._found.storage.read(self._found, self._position, end)
        self._position = end
        return content


def delta_options() -> dict[str, str]:
    """What delta-rs, which has a storage client of its own, is told."""
    return {"allow_http": "true", "max_retries": str(RETRIES), "connect_timeout": "5s", "timeout": "300s"}


def _store(address: Address) -> "ObjectStore":
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

    retry: RetryConfig = {
        "max_retries": RETRIES,
        "retry_timeout": _LONGEST_RETRYING,
        "backoff": {
            "init_backoff": timedelta(seconds=FIRST_PAUSE),
            "max_backoff": timedelta(seconds=_LONGEST_PAUSE),
            "base": 2,
        },
    }
    client: ClientConfig = {
        # An endpoint without TLS is one that the user has set, such as that of a server in the same network.
        "allow_http": address.scheme != "https",
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=30),
        "timeout": timedelta(minutes=5),
    }
    if address.is_web:
        query = f"?{address.query}" if address.query else ""
        return HTTPStore(f"{address}{query}", client_options=client, retry_config=retry)
    if address.scheme == "s3":
        return S3Store(address.container, client_options=client, retry_config=retry)
    if address.scheme == "gs":
        return GCSStore(address.container, client_options=client, retry_config=retry)
    if address.scheme == "az":
        return AzureStore(address.container, client_options=client, retry_config=retry)
    return AzureStore.from_url(f"abfss://{address.container}", client_options=client, retry_config=retry)


def _errors() -> tuple[type[Exception], ...]:
    """What obstore raises."""
    from obstore.exceptions import BaseError

    return BaseError, OSError, ValueError


def _answer(ask: Callable[[], T], address: Address) -> T:
    """What ``ask`` returns, or a StorageError."""
    try:
        return ask()
    except StorageError:
        raise
    except _errors() as error:
        raise storage_error(error, address, RETRIES + 1) from None


def repeated(ask: Callable[[], T]) -> T:
    """What ``ask`` returns. The libraries repeat requests by themselves, but not all whose answers break off."""
    for repetition in range(RETRIES):
        try:
            return ask()
        except Exception as error:
            if not is_broken_off(error):
                raise
        time.sleep(min(FIRST_PAUSE * 2**repetition, _LONGEST_PAUSE))
    return ask()
