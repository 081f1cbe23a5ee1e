"""Keyed hashes: right against Python's hmac, and the key is safe."""

import hashlib
import hmac
import pickle
import stat
import threading
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, SourceError, load_or_create_key

ASCII = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=100)


@settings(deadline=None)
@given(ASCII, st.lists(st.none() | st.text(), min_size=1))
def test_pseudonyms_are_hmac_sha256(key: str, ids: list[str | None]) -> None:
    frame = pl.DataFrame({"id": ids}, schema={"id": pl.String})
    expected = [
        None if text is None else hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:32] for text in ids
    ]
    hashes = Pseudonymiser(key.encode())
    assert frame.select(hashes.expr("id"))["id"].to_list() == expected
    copied = pickle.loads(pickle.dumps(hashes))
    assert [None if text is None else copied.of_text(text) for text in ids] == expected


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "pseudonym.key"
    key = load_or_create_key(path)
    assert len(bytes.fromhex(key.decode())) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path) == key
    assert [entry.name for entry in path.parent.iterdir()] == ["pseudonym.key"]
    assert load_or_create_key(tmp_path / "other.key") != key


def test_threads_that_start_together_get_one_key(tmp_path: Path) -> None:
    keys: list[bytes] = []
    barrier = threading.Barrier(8)

    def load() -> None:
        barrier.wait()
        keys.append(load_or_create_key(tmp_path / "pseudonym.key"))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_the_key_is_not_shown() -> None:
    assert "0123456789abcdef" not in repr(Pseudonymiser(b"0123456789abcdef"))


@pytest.mark.parametrize("key", [b"", b"short", b"\xff" * 32])
def test_a_weak_key_is_refused(key: bytes) -> None:
    with pytest.raises(SourceError, match=r"at least 16 ASCII characters.*openssl rand -hex 32"):
        Pseudonymiser(key)


def test_a_damaged_key_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    path.write_text("\n")
    with pytest.raises(SourceError, match=r"pseudonym\.key: holds no usable key .* Restore the file"):
        load_or_create_key(path)
    assert path.read_text() == "\n"


def test_a_key_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="key file cannot be read or made"):
        load_or_create_key(tmp_path / "file" / "pseudonym.key")
