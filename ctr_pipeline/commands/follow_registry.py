"""The process of `ctr serve` that follows the registry: it verifies versions and tells the others what to serve.

It is a process of its own, so that neither MLflow nor the opening of a model delays an answer.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.commands.serving_folder import ServingFolder
from ctr_pipeline.deployment.environment import Environment, process_environment, set_missing_variables
from ctr_pipeline.deployment.key import KEY_NOTE, existing_pseudonymiser, has_key, key_fingerprint
from ctr_pipeline.errors import UserError
from ctr_pipeline.training.process import die_with_parent

if TYPE_CHECKING:
    from ctr_pipeline.orchestration.resources.releases import RegisteredReleases, ReleaseRegistry
    from ctr_pipeline.orchestration.resources.tracking import ModelVersion
    from ctr_pipeline.serving import Bundle
    from ctr_pipeline.serving.release import ServedState, ServedVersion, Trial

_log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Time between two looks at the registry."""

IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Variables for MLflow: by default it tries to reach a server for minutes."""

RETRY_SECONDS = 30.0
"""A version that could not be verified is tried again after this time: its files may have been out of reach."""


class ServeError(UserError):
    """There is nothing to serve, or it must not be served so."""


@dataclass(frozen=True, slots=True)
class _Verified:
    """A version that may be served."""

    version: "ServedVersion"
    inputs: tuple[str, ...]
    tasks: tuple[str, ...]


@dataclass(slots=True)
class RegistryFollower:
    """Brings the state of a service up to what the registry names."""

    registry: "ReleaseRegistry"
    folder: ServingFolder
    environment: Environment
    clock: Callable[[], float]
    """Seconds that pass."""
    now: Callable[[], datetime]
    _verified: dict[tuple[str, str], _Verified] = field(default_factory=dict)
    _refused: dict[str, tuple[str, float]] = field(default_factory=dict)

    def update(self) -> "ServedState":
        """Reads the registry, verifies what is new, and writes the state where it changes.

        Raises:
            ServeError: nothing can be served: there is no champion, or it must not be served and none was before.
        """
        held = self._without_ended(self.registry.read())
        before = self.folder.state()
        state = self._state(held, before)
        if state != before:
            self.folder.write_state(state)
        self.folder.touch_read()
        used = {found.version.sha256 for found in self._verified.values()}
        self.folder.remove_unused(used | {state.champion.sha256})
        self.folder.remove_outcomes(held.trial.id if held.trial else None)
        return state

    def _without_ended(self, held: "RegisteredReleases") -> "RegisteredReleases":
        """Tells the registry of the trials that servers have ended."""
        for trial, reason in self.folder.ended_trials().items():
            if held.trial is not None and held.trial.id == trial:
                self.registry.end_trial(held.trial, "rolled back", reason, self.now().isoformat(timespec="seconds"))
                _log.warning("the trial of version %s is rolled back: %s", held.trial.version, reason)
                held = self.registry.read()
            self.folder.forget_trial(trial)
        return held

    def _state(self, held: "RegisteredReleases", before: "ServedState | None") -> "ServedState":
        from ctr_pipeline.serving.release import ServedState

        number = held.aliases.get("champion")
        if number is None:
            raise ServeError(
                f"the model {self.registry.name} has no champion. Run `ctr run` for this data root first, or name a bundle with "
                "--bundle."
            )
        refused: dict[str, str] = {}
        found = self._version(number, refused)
        if found is not None:
            champion = found.version
        elif before is not None:
            champion = before.champion
        else:
            raise ServeError(refused[number])
        others = [self._version(held.aliases["previous"], {})] if "previous" in held.aliases else []
        trial, challenger = held.trial, None
        if trial is not None and trial.version != champion.facts.get("version"):
            challenger = self._challenger(trial, found, refused)
        names = {name for other in (*others, challenger) if other is not None for name in other.inputs}
        return ServedState(
            champion=champion,
            challenger=challenger.version if challenger else None,
            trial=trial if challenger else None,
            refused=refused,
            other_inputs=tuple(sorted(names)),
            key=key_fingerprint(self.environment) if has_key(self.environment) else "",
        )

    def _challenger(self, trial: "Trial", champion: _Verified | None, refused: dict[str, str]) -> _Verified | None:
        """The verified version of a trial; None without a champion that it can stand beside."""
        found = self._version(trial.version, refused)
        if found is None or champion is None:
            return None
        if found.tasks != champion.tasks:
            refused[trial.version] = (
                f"it predicts other tasks ({', '.join(found.tasks)}) than the champion ({', '.join(champion.tasks)})"
            )
            return None
        return found

    def _version(self, number: str, refused: dict[str, str]) -> _Verified | None:
        """A verified version; None, and the reason among ``refused``, where it must not be served."""
        try:
            held = self.registry.version(number)
        except UserError as error:
            # It was deleted. Nothing else is held up by that.
            refused[number] = str(error)
            return None
        # `ctr forget` rewrites bundles, and with them this tag.
        key = number, held.tags.get("bundle_sha256", "")
        found = self._verified.get(key)
        if found is not None and Path(found.version.folder).is_dir():
            return found
        reason, since = self._refused.get(number, ("", -RETRY_SECONDS))
        if reason and self.clock() - since < RETRY_SECONDS:
            refused[number] = reason
            return None
        try:
            self._verified[key] = self._verify(held)
        except UserError as error:
            if str(error) != reason:
                _log.error("version %s is not served: %s", number, error)
            self._refused[number] = str(error), self.clock()
            refused[number] = str(error)
            return None
        self._refused.pop(number, None)
        return self._verified[key]

    def _verify(self, held: "ModelVersion") -> _Verified:
        from ctr_pipeline.serving.release import ServedVersion

        bundle = verified_copy(self.registry, held, self.folder, self.environment)
        facts = {"version": held.version, "mlflow_run_id": held.run_id}
        day = {"snapshot": held.tags["partition"]} if "partition" in held.tags else {}
        served = ServedVersion(folder=str(bundle.directory), sha256=bundle.sha256, facts=facts | day)
        return _Verified(served, tuple(bundle.inputs), bundle.tasks)


def verified_copy(
    registry: "ReleaseRegistry", held: "ModelVersion", folder: ServingFolder, environment: Environment
) -> "Bundle":
    """A verified copy of the bundle of a version.

    Raises:
        BundleError: its files are gone, broken or others.
        ServeError: its ids were hashed with another key.
    """
    from ctr_pipeline.orchestration.assets.release import KEY_TAG
    from ctr_pipeline.orchestration.champion_scores import bundle_folder

    sha256 = held.tags.get("bundle_sha256", "")
    if folder.has(sha256):
        bundle = folder.opened(sha256)
    else:
        bundle = folder.copy(bundle_folder(registry.tracking, registry.name, held), sha256)
    if key := held.tags.get(KEY_TAG):
        refuse_other_key(key, environment, f"version {held.version} of {registry.name}")
    return bundle


def copied_bundle(
    source: Path, folder: ServingFolder, data_root: Path | None, environment: Environment
) -> "ServedState":
    """The state of a service that serves a folder and no registry.

    Args:
        source: Folder of the bundle.
        folder: Of the service.
        data_root: Where the bundle was made; if given, the key must be the one of its tables.
        environment: Names the key.

    Raises:
        BundleError: there is no bundle, or it is broken.
        ServeError: the key is another one.
    """
    from ctr_pipeline.serving.release import ServedState, ServedVersion

    bundle = folder.copy(source, "")
    note = data_root / KEY_NOTE if data_root else None
    if note is not None and note.is_file():
        refuse_other_key(note.read_text(encoding="ascii").strip(), environment, str(data_root))
    state = ServedState(champion=ServedVersion(folder=str(bundle.directory), sha256=bundle.sha256))
    folder.write_state(state)
    return state


def refuse_other_key(fingerprint: str, environment: Environment, what: str) -> None:
    """Refuses ids that were hashed with another key.

    Raises:
        ServeError: the key at hand is not the one of the fingerprint.
        KeyMissingError: there is none.
    """
    existing_pseudonymiser(environment)
    if key_fingerprint(environment) != fingerprint:
        raise ServeError(
            f"the ids of {what} were hashed with another key than the one at hand: every user would be unknown. Set "
            "CTR_PSEUDONYM_KEY or CTR_PSEUDONYM_KEY_FILE to the key of the training."
        )


def is_usable(folder: ServingFolder, environment: Environment) -> bool:
    """Whether the state of a folder was verified for the key at hand, and its copy is there."""
    state = folder.state()
    if state is None or not Path(state.champion.folder).is_dir():
        return False
    return not state.key or (has_key(environment) and key_fingerprint(environment) == state.key)


def follower_of(data_root: Path, folder: ServingFolder, environment: Environment) -> RegistryFollower:
    """The follower of the registry of a data root."""
    from ctr_pipeline.deployment.deployment import Deployment
    from ctr_pipeline.orchestration.build import tracking_of
    from ctr_pipeline.orchestration.resources.releases import ReleaseRegistry

    deployment = Deployment.load(data_root)
    registry = ReleaseRegistry(tracking_of(deployment, environment), deployment.spec.name)
    return RegistryFollower(registry, folder, environment, time.monotonic, lambda: datetime.now(UTC))


def first_state(follower: RegistryFollower) -> "ServedState":
    """The state of a service that starts: that of the registry, or the last one where that cannot be used.

    Raises:
        ServeError: nothing may be served.
        ReleaseError: the registry cannot be used, and nothing was served from this folder before.
    """
    from ctr_pipeline.orchestration.resources.releases import ReleaseError, registry_in_reach

    try:
        with registry_in_reach(follower.registry.tracking.tracking_uri):
            return follower.update()
    except ReleaseError as error:
        state = follower.folder.state()
        if state is None or not is_usable(follower.folder, follower.environment):
            raise
        number = state.champion.facts.get("version", "")
        _log.error(
            "%s\nServed is version %s, the champion when the registry was last read, without a trial until it is read again.",
            error, number,
        )  # fmt: skip
        state = replace(state, trial=None, challenger=None)
        follower.folder.write_state(state)
        return state


def main(content: Mapping[str, Any]) -> int:
    """Follows the registry until its parent ends; its first line of output is a JSON object with ``error`` or without.

    Args:
        content: ``folder``; and ``bundle`` for a folder that is served as it is, or ``data_root``; both for a bundle that
            must have the key of the data root.
    """
    from ctr_pipeline.orchestration.resources.releases import registry_in_reach, without_password
    from ctr_pipeline.spec.extensions import load_extensions

    die_with_parent()
    environment, folder = process_environment(), ServingFolder(Path(content["folder"]))
    root = Path(content["data_root"]) if content["data_root"] else None
    try:
        load_extensions()
        if content["bundle"]:
            state = copied_bundle(Path(content["bundle"]), folder, root, environment)
        else:
            assert root is not None, "it is followed"
            set_missing_variables(IMPATIENT)
            follower = follower_of(root, folder, environment)
            state = first_state(follower)
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    print(json.dumps({"sha256": state.champion.sha256}), flush=True)
    if content["bundle"]:
        return 0
    failed = False
    while True:
        time.sleep(POLL_SECONDS)
        try:
            with registry_in_reach(follower.registry.tracking.tracking_uri):
                follower.update()
            failed = False
        except Exception as error:
            # The services go on with what they have. Each outage is logged once.
            if not failed:
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                _log.error("the registry cannot be followed: %s%s", kind, without_password(str(error)))
            failed = True


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s:     %(message)s")
    sys.exit(main(json.loads(sys.argv[1])))
