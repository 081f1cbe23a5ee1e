"""What computed: files of the code, versions of libraries, the machine, and the key of the hashes."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ctr_pipeline.attribution.differences.difference import Difference
from ctr_pipeline.attribution.differences.retrain_state import RetrainState

NAMED = 3
"""Files that the sentence names at most."""

LISTED = 12
"""Files that the evidence lists at most."""

_DECISIVE = (
    "losses", "ranker", "training", "features", "datasets", "calibration", "labels", "propensity", "sources", "spec", "engines", "lake",
    "gradients", "simulator", "orchestration/assets", "orchestration/prepared_training.py",
)  # fmt: skip
"""Packages and files that decide a model, those first in which a change does most; the others show, serve or compare it."""

_SHOWING = tuple(
    f"orchestration/assets/{name}.py"
    for name in (
        "attribution", "canary", "champion_comparison", "feature_store", "measures", "monitoring", "release", "scores",
        "serving_log", "slices",
    )
)  # fmt: skip
"""Assets that come after a model."""

SAME = "it made the same arrays, weights and scores to the bit"

_OWN = ("code", "package")
_MACHINE = ("machine", "processor", "cores")
"""What changes the order of sums alone."""


def changed_code(old: RetrainState, new: RetrainState) -> list[Difference]:
    """Differences of the code, the libraries, the machine and the key."""
    before, after = (dict(side.lineage.get("environment", {})) for side in (old, new))
    computed = [*_code(old, new, before, after), *_libraries(before, after)]
    if _same_to_the_bit(old, new):
        computed = [replace(one, minor=True, evidence=(*one.evidence, SAME)) for one in computed]
    return [*computed, *_key(old, new)]


def _same_to_the_bit(old: RetrainState, new: RetrainState) -> bool:
    """Whether both made the same arrays, weights and calibrated test scores, so that what computed them changed nothing."""
    made = [(side.lineage.get("arrays"), side.lineage.get("model_sha256")) for side in (old, new)]
    return made[0] == made[1] and None not in made[0] and np.array_equal(old.logits, new.logits)


def _code(
    old: RetrainState, new: RetrainState, before: Mapping[str, str], after: Mapping[str, str]
) -> list[Difference]:
    found: list[Difference] = []
    for name in sorted({*before, *after}):
        if name.startswith("extension ") and before.get(name) != after.get(name):
            own = name.removeprefix("extension ")
            what = "is new" if name not in before else "is gone" if name not in after else "has other code"
            found.append(
                Difference(kind="code", subject=own, form="extension", sentence=f"The extension “{own}” {what}")
            )
    if before.get("code") == after.get("code"):
        return found
    files = [side.lineage.get("files", {}) for side in (old, new)]
    if not all(files):
        sentence = "The code of the pipeline is another"
        evidence = (
            f"{before.get('code')} → {after.get('code')}; which files differ was not recorded by both retrains",
        )
        return [
            *found,
            Difference(kind="code", subject="ctr_pipeline", form="other code", sentence=sentence, evidence=evidence),
        ]
    names = sorted(name for name in {*files[0], *files[1]} if files[0].get(name) != files[1].get(name))
    decisive = sorted((name for name in names if _decides(name)), key=_order)
    if not names:
        return found
    shown = decisive or names
    listed = ", ".join(shown[:NAMED]) + (f" and {len(shown) - NAMED} more" if len(shown) > NAMED else "")
    listing = tuple(
        f"{name}: {'new' if name not in files[0] else 'gone' if name not in files[1] else 'changed'}"
        for name in shown[:LISTED]
    )
    found.append(
        Difference(
            kind="code", subject=shown[0] if len(shown) == 1 else "ctr_pipeline", form="other code", evidence=listing,
            sentence=f"The code of the pipeline is another: {listed}", minor=not decisive,
        )
    )  # fmt: skip
    return found


def _decides(name: str) -> bool:
    """Whether a file may change a model; of an extension (``name: path``) each may."""
    if ": " in name:
        return True
    return name not in _SHOWING and any(_lies_in(name, part) for part in _DECISIVE)


def _lies_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}/")


def _order(name: str) -> tuple[int, str]:
    place = next((n for n, package in enumerate(_DECISIVE) if _lies_in(name, package)), -1)
    return place, name


def _libraries(before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    names = [name for name in sorted({*before, *after}) if not name.startswith("extension ") and name not in _OWN]
    changed = [name for name in names if before.get(name) != after.get(name)]
    libraries = [name for name in changed if name not in _MACHINE and name != "device"]
    machine = [name for name in changed if name in _MACHINE]

    def listed(chosen: list[str]) -> str:
        return ", ".join(f"{name} {before.get(name, 'absent')} → {after.get(name, 'absent')}" for name in chosen)

    found = []
    if libraries:
        found.append(
            Difference(kind="libraries", subject=libraries[0], form="other versions", sentence=f"Libraries have other versions: {listed(libraries)}")
        )  # fmt: skip
    if "device" in changed:
        found.append(
            Difference(kind="libraries", subject="device", form="other device", sentence=f"It was trained on another device: {listed(['device'])}")
        )  # fmt: skip
    if machine:
        found.append(
            Difference(
                kind="libraries", subject="machine", form="other machine", minor=True,
                sentence=f"It was trained on another machine: {listed(machine)}",
            )
        )  # fmt: skip
    return found


def _key(old: RetrainState, new: RetrainState) -> list[Difference]:
    if old.key_fingerprint == new.key_fingerprint:
        return []
    return [
        Difference(
            kind="key", subject="key of the hashes", form="other key",
            sentence="The ids were hashed with another key: no user, session or impression has the id that it had",
            evidence=(
                f"fingerprints {old.key_fingerprint} → {new.key_fingerprint}",
                "a model knows none of the hashed ids of the other side, and both split users into other clusters",
            ),
            features=tuple(name for name in new.categories if name in new.spec.private_columns),
        )
    ]  # fmt: skip
