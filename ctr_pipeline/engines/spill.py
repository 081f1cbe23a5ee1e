"""Folders for temporary files of engines and trainings."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

FOLDER = "spill"
"""Name of the folder of them all, in the data root."""


@contextmanager
def spill_folder(data_root: Path) -> Iterator[Path]:
    """A fresh folder below ``data_root``, removed at the end, also when the process is killed: by the next call.

    Each holder keeps a lock, so that folders of processes that are at work are left alone.
    """
    root = data_root / FOLDER
    root.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    folder = root / uuid4().hex
    lock = _lock_file(folder)
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _remove_abandoned(root: Path) -> None:
    for folder in root.iterdir():
        # A holder locks its file before it makes its folder.
        if folder.is_dir() and not _is_held(_lock_file(folder)):
            shutil.rmtree(folder, ignore_errors=True)
            _lock_file(folder).unlink(missing_ok=True)


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
