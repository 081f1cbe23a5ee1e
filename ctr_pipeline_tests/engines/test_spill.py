"""Folders for temporary files go with their holder, however it ends."""

import multiprocessing
import os
import signal
from pathlib import Path

from ctr_pipeline.engines.spill import FOLDER, spill_folder


def test_a_folder_is_fresh_and_removed(tmp_path: Path) -> None:
    with spill_folder(tmp_path) as one, spill_folder(tmp_path) as other:
        (one / "part").write_text("x")
        assert one != other
        assert list(other.iterdir()) == []
        assert one.parent == other.parent == tmp_path / FOLDER
    assert list((tmp_path / FOLDER).iterdir()) == []


def _hold(root: str, ready: "multiprocessing.synchronize.Event") -> None:
    with spill_folder(Path(root)) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "part").write_text("x")
        ready.set()
        signal.pause()


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_holds_is_not(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready))
    holder.start()
    assert ready.wait(60)
    with spill_folder(tmp_path) as mine:
        folders = {path for path in (tmp_path / FOLDER).iterdir() if path.is_dir()}
        assert len(folders) == 2
        (theirs,) = folders - {mine}
        assert (theirs / "deep" / "part").read_text() == "x"
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(60)
    assert theirs.is_dir()
    with spill_folder(tmp_path):
        assert not theirs.exists()
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_folders_of_nobody_are_removed(tmp_path: Path) -> None:
    (tmp_path / FOLDER / "old" / "deep").mkdir(parents=True)
    with spill_folder(tmp_path) as folder:
        assert [path.name for path in (tmp_path / FOLDER).iterdir() if path.is_dir()] == [folder.name]
