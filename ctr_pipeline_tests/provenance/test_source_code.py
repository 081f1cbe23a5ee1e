"""Each file of the code is recorded by itself, so that a changed one can be named."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ctr_pipeline.provenance import code_digest, extension_digests, file_digests, source_code


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two files and a compiled one in place of ours, and an extension of one file."""
    folder = tmp_path / "package"
    (folder / "training" / "__pycache__").mkdir(parents=True)
    (folder / "training" / "step.py").write_text("step = 1")
    (folder / "training" / "__pycache__" / "step.pyc").write_text("compiled")
    (folder / "errors.py").write_text("")
    monkeypatch.setattr(source_code, "PACKAGE", folder)
    extension = tmp_path / "extension"
    extension.mkdir()
    (extension / "added_loss.py").write_text("loss = 1")
    monkeypatch.syspath_prepend(str(extension))
    entries = [EntryPoint(name="losses", value="added_loss", group=source_code.GROUP)]
    monkeypatch.setattr(source_code, "entry_points", lambda **_: entries)
    return folder


def test_the_file_that_was_edited_is_the_one_that_differs(package: Path, tmp_path: Path) -> None:
    before = file_digests()
    assert set(before) == {"errors.py", "training/step.py", "losses: added_loss.py"}
    whole, extensions = code_digest(()), extension_digests()
    (package / "training" / "step.py").write_text("step = 2")
    edited = file_digests()
    assert {name for name in before if before[name] != edited[name]} == {"training/step.py"}
    assert code_digest(()) != whole
    (tmp_path / "extension" / "added_loss.py").write_text("loss = 2")
    assert {name for name in before if edited[name] != file_digests()[name]} == {"losses: added_loss.py"}
    assert extension_digests() != extensions
