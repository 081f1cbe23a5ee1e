"""The commit is that of the package's own checkout, or none."""

import subprocess
from pathlib import Path

from ctr_pipeline.provenance.checkout import checkout_commit


def test_the_commit_of_the_checkout_that_holds_the_package(tmp_path: Path) -> None:
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    assert checkout_commit(package) is None
    git = ["git", "-C", str(package.parent), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    assert checkout_commit(package) is None
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "first"], check=True)
    found = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert checkout_commit(package) == found.stdout.strip()
    # As an environment below the checkout of another project.
    installed = package.parent / ".venv" / "site-packages" / "package"
    installed.mkdir(parents=True)
    assert checkout_commit(installed) is None
