"""`ctr init`: a spec to start from."""

from pathlib import Path

from ctr_pipeline.deployment.bundled import bundled_specs
from ctr_pipeline.errors import UserError


class InitError(UserError):
    """A spec that cannot be copied."""


def copy_spec(name: str, out: Path) -> Path:
    """Copies the bundled spec ``name`` to the new file ``out``.

    Raises:
        InitError: there is no such spec, or the file cannot be written or exists already.
    """
    specs = bundled_specs()
    if name not in specs:
        raise InitError(f"no bundled spec is called {name!r}. Choose one of {', '.join(specs)}.")
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(specs[name].read_text(encoding="utf-8"))
    except FileExistsError:
        raise InitError(f"{out} exists already. Choose another name with --out, or remove it.") from None
    except OSError as error:
        raise InitError(f"{out} cannot be written ({error.strerror}). Name a file in a folder that can.") from None
    return out
