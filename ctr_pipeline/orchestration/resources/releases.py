"""What the registry says of releases: aliases, and the trial that runs. Every server and command reads it there."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.resources.tracking import ModelVersion, TrackingResource
from ctr_pipeline.serving.release import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

TRIAL_TAG = "release.trial"
"""Tag of a registered model: the trial that runs, as JSON; empty for none."""

LAST_TAG = "release.last_trial"
"""Tag of a registered model: how the last trial ended, as JSON."""

ROLLED_BACK_TAG = "rolled_back"
"""Tag of a version that was rolled back: when."""

REASON_TAG = "rolled_back.reason"
"""Tag of a version that was rolled back: why."""


_CREDENTIALS = re.compile(r"//[^/@\s]+@")


class ReleaseError(UserError):
    """The registry does not hold what a release needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTrial:
    """How a trial ended.

    Attributes:
        trial: Identifier.
        version: The version that was tried.
        mode: How it was tried.
        outcome: ``rolled back``, ``stopped`` or ``promoted``.
        reason: Why.
        at: When, ISO 8601.
    """

    trial: str
    version: str
    mode: str
    outcome: str
    reason: str
    at: str


@dataclass(frozen=True, slots=True)
class RegisteredReleases:
    """Aliases and trial of a model, as they are at one moment."""

    aliases: Mapping[str, str]
    """Alias to version."""
    trial: Trial | None
    last: EndedTrial | None


@contextmanager
def registry_in_reach(uri: str) -> Iterator[None]:
    """Within it, an error of MLflow's store is one for users.

    Args:
        uri: Of the store; its password is shown to nobody.

    Raises:
        ReleaseError: the store cannot be used.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise ReleaseError(
            f"the registry in {without_password(uri)} cannot be used: {without_password(str(error).splitlines()[0])[:500]}\nWhere "
            "MLflow is a server, is it running, and MLFLOW_TRACKING_URI right? Servers go on with what they serve."
        ) from None


def without_password(text: str) -> str:
    """A text without the user and password of addresses in it."""
    return _CREDENTIALS.sub("//", text)


class ReleaseRegistry:
    """Releases of one registered model.

    Args:
        tracking: MLflow.
        name: Name of the model.
    """

    def __init__(self, tracking: TrackingResource, name: str) -> None:
        self.tracking, self.name = tracking, name

    @cached_property
    def _client(self) -> "MlflowClient":
        """Made at the first question: a store that cannot be used is told then."""
        return self.tracking.client()

    def read(self) -> RegisteredReleases:
        """Aliases and trial, in one call; nothing where there is no such model."""
        from mlflow.exceptions import MlflowException

        try:
            model = self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return RegisteredReleases({}, None, None)
        trial, last = model.tags.get(TRIAL_TAG), model.tags.get(LAST_TAG)
        return RegisteredReleases(
            {alias: str(version) for alias, version in dict(model.aliases).items()},
            Trial.from_json(json.loads(trial)) if trial else None,
            EndedTrial(**json.loads(last)) if last else None,
        )

    def version(self, version: str) -> ModelVersion:
        """A version.

        Raises:
            ReleaseError: there is none.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version(self.name, version)
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            raise ReleaseError(
                f"the model {self.name} has no version {version}. `ctr release status` lists those with an alias, and "
                "`ctr release stop` ends the trial of one that was deleted."
            ) from None
        return ModelVersion(str(found.version), str(found.run_id), dict(found.tags))

    def start_trial(self, trial: Trial) -> None:
        """Starts a trial, or goes on with one with another share; the version becomes the challenger."""
        self._client.set_registered_model_alias(self.name, CHALLENGER, trial.version)
        self._client.set_registered_model_tag(self.name, TRIAL_TAG, json.dumps(trial.to_json()))

    def end_trial(self, trial: Trial, outcome: str, reason: str, at: str) -> None:
        """Ends a trial; nothing happens where another one runs by now.

        Args:
            trial: The trial.
            outcome: As :attr:`EndedTrial.outcome`; where it is rolled back, its version loses the alias challenger and
                keeps the reason as a tag.
            reason: Why.
            at: When, ISO 8601.
        """
        held = self.read()
        if held.trial is None or held.trial.id != trial.id:
            return
        ended = EndedTrial(
            trial=trial.id, version=trial.version, mode=trial.mode, outcome=outcome, reason=reason, at=at
        )
        if outcome == "rolled back":
            self._tag_rolled_back(trial.version, reason, at)
            if held.aliases.get(CHALLENGER) == trial.version:
                self._client.delete_registered_model_alias(self.name, CHALLENGER)
        self._client.set_registered_model_tag(self.name, LAST_TAG, json.dumps(asdict(ended)))
        self._client.delete_registered_model_tag(self.name, TRIAL_TAG)

    def promote(self, version: str, at: str, tags: Mapping[str, str]) -> None:
        """Makes a version the champion, and ends the trial that runs.

        Args:
            version: The version.
            at: When, ISO 8601.
            tags: Further tags of the version.
        """
        held = self.read()
        for name, value in {"promoted_at": at, **tags}.items():
            self._client.set_model_version_tag(self.name, version, name, value)
        if ROLLED_BACK_TAG in self.version(version).tags:
            self._describe(version, f"Promoted {_minute(at)} UTC, after it had been rolled back.")
        self.tracking.promote(self.name, version)
        if held.trial is not None:
            own = held.trial.version == version
            reason = f"version {version} was promoted"
            self.end_trial(held.trial, "promoted" if own else "stopped", reason, at)
        if held.aliases.get(CHALLENGER) == version:
            self._client.delete_registered_model_alias(self.name, CHALLENGER)

    def roll_back(self, reason: str, at: str) -> tuple[str, str]:
        """Exchanges champion and previous, and ends the trial that runs.

        Returns:
            The version that was rolled back, and the one that is the champion again.

        Raises:
            ReleaseError: there is no version to go back to.
        """
        held = self.read()
        champion, previous = held.aliases.get(CHAMPION), held.aliases.get(PREVIOUS)
        if champion is None and previous is not None:
            raise ReleaseError(
                f"the model {self.name} has no champion that could be rolled back. Make the one before it the champion: "
                f"`ctr promote {previous}`."
            )
        if champion is None or previous is None or champion == previous:
            raise ReleaseError(
                f"the model {self.name} has no version before its champion. Promote another one: `ctr promote VERSION`."
            )
        # The champion first: whoever reads in between sees a model that may be served.
        self._client.set_registered_model_alias(self.name, CHAMPION, previous)
        self._client.set_registered_model_alias(self.name, PREVIOUS, champion)
        self._tag_rolled_back(champion, reason, at)
        if held.trial is not None:
            self.end_trial(held.trial, "stopped", f"the champion was rolled back to version {previous}", at)
        return champion, previous

    def _tag_rolled_back(self, version: str, reason: str, at: str) -> None:
        for name, value in ((ROLLED_BACK_TAG, at), (REASON_TAG, reason[:5000])):
            self._client.set_model_version_tag(self.name, version, name, value)
        # MLflow's pages show few tags at once, but the description above all tags, and its first 30 characters in lists.
        self._describe(version, f"Rolled back {_minute(at)} UTC: {reason}")

    def _describe(self, version: str, text: str) -> None:
        self._client.update_model_version(self.name, version, text[:5000])


def _minute(at: str) -> str:
    """An ISO 8601 time as ``YYYY-MM-DD HH:MM`` in UTC."""
    return datetime.fromisoformat(at).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
