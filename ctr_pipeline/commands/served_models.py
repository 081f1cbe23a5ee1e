"""The models of one process of a service: opened as the state tells, and replaced while requests are answered."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.commands.serve_store import opened_history
from ctr_pipeline.commands.serving_folder import ServingFolder
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.deployment.key import existing_pseudonymiser
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    from ctr_pipeline.serving.http import ServedArms, ServedModel, ServedModels, ServiceMetrics
    from ctr_pipeline.serving.release import ServedState, ServedVersion

_log = logging.getLogger(__name__)

WARM_UP = 20
"""Times that the golden rows are scored before the first request."""

LOOK_SECONDS = 0.5
"""Time between two looks at the state."""

AWAIT_SECONDS = 20.0
"""A process that cannot open its first models tries for so long, before it ends and is replaced."""

_RETRY_LOOKS = 10
"""Looks after which a state that could not be served is tried again."""


def served_model(
    version: "ServedVersion", environment: Environment, store: str = "", device: Mapping[str, Any] | None = None
) -> "ServedModel":
    """The opened and warm model of a version, with the key of the deployment where it has hashed features.

    Args:
        version: The version.
        environment: Holds the key.
        store: Folder of the snapshots of history features; empty where requests hold these themselves.
        device: Fields of :class:`~ctr_pipeline.serving.gpu.DeviceSettings`; None for the thread of the request.

    Raises:
        BundleError: it is broken, or the device is absent.
        StoreError: the snapshots are of other history features than the model's.
        KeyMissingError: the model needs a key, and there is none.
    """
    from ctr_pipeline.serving import Bundle, BundleError
    from ctr_pipeline.serving.http import ServedModel

    bundle = Bundle.open(Path(version.folder))
    if bundle.sha256 != version.sha256:
        raise BundleError(f"{version.folder}: another model than the one that was asked for. Start `ctr serve` again.")
    hasher: Callable[[str], str] | None = None

    def pseudonym(text: str) -> str:
        assert hasher is not None, "looked up before the first request"
        return hasher(text)

    model = ServedModel.of(bundle, pseudonym, version.facts)
    if store:
        model = replace(model, history=opened_history(model, Path(store), pseudonym))
    if model.hashed or (model.history is not None and model.history.hashes):
        hasher = existing_pseudonymiser(environment).of_text
    if device:
        from ctr_pipeline.serving.gpu import DeviceScoring, DeviceSettings

        return replace(model, batches=DeviceScoring(bundle, DeviceSettings(**device)))
    for _ in range(WARM_UP):
        bundle.check_golden()
    return model


class EndedTrials:
    """Trials that this process has ended, until the others can be told of them.

    Args:
        folder: Of the service.
    """

    def __init__(self, folder: ServingFolder) -> None:
        self._folder, self._untold, self._failed = folder, dict[str, str](), False

    def end(self, trial: str, reason: str) -> None:
        """Tells that a trial must not go on; never raises, as requests are answered by its caller."""
        self._untold[trial] = reason
        self.write()

    def write(self) -> None:
        """Writes what could not be written before, as on a full disk."""
        for trial, reason in list(self._untold.items()):
            try:
                self._folder.end_trial(trial, reason)
            except OSError as error:
                if not self._failed:
                    _log.error(
                        "this process ended the trial %s (%s), but cannot tell the others: %s. Make room in %s; it is tried again.",
                        trial, reason, error, self._folder.root,
                    )  # fmt: skip
                self._failed = True
                return
            self._untold.pop(trial, None)
        self._failed = False


class ModelLoader:
    """Opens what the state of a service names.

    Args:
        folder: Of the service.
        environment: Holds the key.
        store: Folder of the snapshots of history features; empty for none.
        device: As for :func:`served_model`.
    """

    def __init__(
        self,
        folder: ServingFolder,
        environment: Environment,
        store: str = "",
        device: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder, self._environment, self._store, self._device = folder, environment, store, device
        self._opened: dict[str, ServedModel] = {}

    def arms(self) -> "ServedArms":
        """The arms of the state as it is now; models that are open are not opened again.

        Raises:
            UserError: the champion cannot be opened.
            OSError: there is no state.
        """
        from ctr_pipeline.serving.http import ServedArms

        state = self._folder.state()
        if state is None:
            raise FileNotFoundError(self._folder.state_file)
        state = _without_ended(state, self._folder.ended_trials())
        champion, challenger = self._model(state.champion), None
        if state.challenger is not None and state.trial is not None:
            try:
                challenger = self._model(state.challenger)
            except UserError as error:
                # The champion is not held up by it.
                _log.error("version %s is not tried: %s", state.trial.version, error)
                state = replace(state, trial=None, refused={**state.refused, state.trial.version: str(error)})
        used = {model.bundle.sha256 for model in (champion, challenger) if model is not None}
        self._opened = {sha256: model for sha256, model in self._opened.items() if sha256 in used}
        return ServedArms.of(champion, challenger, state.trial, state.refused, frozenset(state.other_inputs))

    def _model(self, version: "ServedVersion") -> "ServedModel":
        from ctr_pipeline.serving import BundleError

        if version.sha256 not in self._opened:
            try:
                self._opened[version.sha256] = served_model(version, self._environment, self._store, self._device)
            except BundleError:
                # A damaged copy is in the way of a new one, which the process that follows the registry then makes.
                self._folder.remove_damaged(version.sha256)
                raise
        return self._opened[version.sha256]


def first_arms(
    loader: ModelLoader, seconds: float = AWAIT_SECONDS, pause: Callable[[float], None] = time.sleep
) -> "ServedArms":
    """The arms of a process that begins, once they can be opened: a damaged copy is made again meanwhile.

    Args:
        loader: Opens them.
        seconds: How long it waits at most.
        pause: Waits for some seconds.

    Raises:
        UserError: they cannot be opened.
        OSError: there is no state.
    """
    for look in range(round(seconds / LOOK_SECONDS)):
        try:
            return loader.arms()
        except UserError as error:
            if look == 0:
                _log.error("a process cannot answer yet: %s It is tried again.", error)
        pause(LOOK_SECONDS)
    return loader.arms()


def follow_state(
    models: "ServedModels", loader: ModelLoader, folder: ServingFolder, metrics: "ServiceMetrics", ended: EndedTrials
) -> threading.Thread:
    """Replaces the models whenever the state changes, from a thread that ends with the process.

    A model is opened and warm before it is served, and what cannot be opened is not: the ones before go on, and it is tried
    again.
    """

    def watch() -> None:
        seen, waiting = folder.stamp(), threading.Event()
        # What changed between the opening of the first models and here is taken up too.
        again = _RETRY_LOOKS if not refresh(models, loader, metrics) else -1
        while not waiting.wait(LOOK_SECONDS):
            ended.write()
            stamp, again = folder.stamp(), again - 1
            if stamp != seen or again == 0:
                seen = stamp
                again = _RETRY_LOOKS if not refresh(models, loader, metrics) else -1

    thread = threading.Thread(target=watch, name="state of the service", daemon=True)
    thread.start()
    return thread


def refresh(models: "ServedModels", loader: ModelLoader, metrics: "ServiceMetrics") -> bool:
    """Serves what the state names now; goes on with the models before, and is False, where that cannot be opened."""
    try:
        arms = loader.arms()
    except Exception as error:
        # Whatever it is, the thread must live to see the next state.
        metrics.swapped("failed")
        _log.error("the models of the state cannot be opened, so those before go on: %s", error)
        current = models.current
        models.replace(replace(current, refused={**current.refused, "state": str(error)}))
        metrics.served(len(models.current.refused), models.current.canary_share)
        return False
    if _identity(arms) == _identity(models.current):
        return True
    models.replace(arms)
    # Now, not when it is asked for: another process answers then, and shows what this one last set.
    metrics.served(len(models.current.refused), models.current.canary_share)
    metrics.swapped("served")
    # The new model stays: the collector need not look through it while requests wait.
    gc.freeze()
    return True


def _identity(arms: "ServedArms") -> tuple[object, ...]:
    challenger = arms.challenger.bundle.sha256 if arms.challenger else None
    facts = arms.champion.facts, arms.challenger.facts if arms.challenger else None
    return arms.champion.bundle.sha256, challenger, arms.trial, dict(arms.refused), arms.other_inputs, facts


def _without_ended(state: "ServedState", ended: dict[str, str]) -> "ServedState":
    trial = state.trial
    if trial is None or trial.id not in ended:
        return state
    refused = {**state.refused, trial.version: ended[trial.id]}
    return replace(state, trial=None, challenger=None, refused=refused)
