"""The commit of the git checkout that the package lies in."""

import subprocess
from pathlib import Path

from ctr_pipeline.provenance.source_code import PACKAGE


def checkout_commit(package: Path = PACKAGE) -> str | None:
    """The commit that the checkout around ``package`` is at; None for an installed package, or without git.

    Files may have been edited since: :func:`~ctr_pipeline.provenance.source_code.code_version` identifies the code.
    Only a checkout whose root holds the package counts: an environment below another project's checkout is none.
    """
    root = package.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
