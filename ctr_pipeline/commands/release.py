"""`ctr promote`, `ctr rollback` and `ctr release`: which version answers, and which is tried beside it."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ctr_pipeline.commands.follow_registry import IMPATIENT, ServeError, verified_copy
from ctr_pipeline.commands.serving_folder import ServingFolder
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment, set_missing_variables, set_variables
from ctr_pipeline.deployment.lock import one_at_a_time
from ctr_pipeline.orchestration.build import tracking_of
from ctr_pipeline.orchestration.instance import dagster_variables
from ctr_pipeline.orchestration.pipeline import watch_canary
from ctr_pipeline.orchestration.promotions import VersionFacts, promotion_refusals, version_facts
from ctr_pipeline.orchestration.resources.releases import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    EndedTrial,
    ReleaseError,
    ReleaseRegistry,
    registry_in_reach,
)
from ctr_pipeline.serving.release import GuardrailRules, Trial, TrialMode

if TYPE_CHECKING:
    from ctr_pipeline.orchestration.resources.tracking import ModelVersion
    from ctr_pipeline.serving import Bundle

LOCK_SECONDS = 60.0
"""Longest wait for another command that changes releases."""

DESPITE_TAG = "promoted.despite"
"""Tag of a version that was promoted though something spoke against it: why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A version beside the champion.

    Attributes:
        champion: The champion; None without one, or where it is the version itself.
        candidate: The version.
        refusals: What speaks against serving it; a person may decide otherwise.
        notes: What changes for those who send requests.
    """

    champion: VersionFacts | None
    candidate: VersionFacts
    refusals: Sequence[str]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseStatus:
    """The releases of a model at one moment."""

    versions: Sequence[VersionFacts]
    trial: Trial | None
    last: EndedTrial | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Releases:
    """The releases of one deployment."""

    deployment: Deployment
    registry: ReleaseRegistry
    environment: Environment

    @classmethod
    def of(cls, deployment: Deployment, environment: Environment) -> "Releases":
        """Those that the registry of the deployment holds."""
        return cls(deployment, ReleaseRegistry(tracking_of(deployment, environment), deployment.spec.name), environment)

    @classmethod
    @contextmanager
    def opened(cls, deployment: Deployment, environment: Environment) -> Iterator["Releases"]:
        """As :meth:`of`; within it, a registry that cannot be used is an error for users, and soon.

        Raises:
            ReleaseError: it cannot be used.
        """
        set_missing_variables(IMPATIENT)
        with registry_in_reach(tracking_of(deployment, environment).tracking_uri):
            yield cls.of(deployment, environment)

    def status(self) -> ReleaseStatus:
        """Versions with an alias or a trial, and the trial."""
        held = self.registry.read()
        numbers = {*held.aliases.values(), *([held.trial.version] if held.trial else [])}
        versions = list(filter(None, map(self._there, sorted(numbers, key=int, reverse=True))))
        return ReleaseStatus(
            versions=[version_facts(self.registry, held, version) for version in versions],
            trial=held.trial,
            last=held.last,
        )

    def compare(self, number: str | None) -> Comparison:
        """A version, by default the challenger, beside the champion; nothing is changed.

        Raises:
            ReleaseError: there is no such version, or it is the champion.
            BundleError: it is broken.
            ServeError: its ids were hashed with another key.
        """
        held = self.registry.read()
        champion = held.aliases.get(CHAMPION)
        number = number or held.aliases.get(CHALLENGER)
        if number is None:
            raise ReleaseError(f"the model {self.registry.name} has no challenger. Name a version.")
        if number == champion:
            raise ReleaseError(f"version {number} of {self.registry.name} is the champion.")
        candidate = self.registry.version(number)
        bundle = self._verified(candidate)
        refusals = promotion_refusals(self.deployment, candidate)
        facts = version_facts(self.registry, held, candidate)
        if champion is None:
            return Comparison(champion=None, candidate=facts, refusals=refusals, notes=[])
        other = self.registry.version(champion)
        return Comparison(
            champion=version_facts(self.registry, held, other),
            candidate=facts,
            refusals=refusals,
            notes=self._changes(other, bundle),
        )

    def promote(self, comparison: Comparison, despite: str | None, now: datetime) -> None:
        """Makes the compared version the champion.

        Args:
            comparison: As :meth:`compare` gives it.
            despite: Why it is promoted in spite of what speaks against it; None where nothing may.
            now: The time.

        Raises:
            ReleaseError: something speaks against it.
        """
        version = comparison.candidate.version
        if comparison.refusals and not despite:
            listed = "\n".join(f"- {reason}" for reason in comparison.refusals)
            raise ReleaseError(
                f"version {version} is not promoted:\n{listed}\nTo promote it all the same: --despite REASON."
            )
        tags = {DESPITE_TAG: despite} if despite and comparison.refusals else {}
        compared = comparison.champion.version if comparison.champion is not None else None
        with self._changing():
            champion = self.registry.read().aliases.get(CHAMPION)
            if champion != compared:
                raise ReleaseError(
                    f"version {version} is not promoted: since it was compared with version {compared or 'none'}, version "
                    f"{champion or 'none'} has become the champion. Look again: `ctr promote {version}`."
                )
            self.registry.promote(version, _text(now), tags)

    def roll_back(self, reason: str, now: datetime) -> tuple[str, str]:
        """Makes the version before the champion again.

        Returns:
            The version that was rolled back, and the champion.

        Raises:
            ReleaseError: there is none.
            BundleError: it is broken.
            ServeError: its ids were hashed with another key.
        """
        previous = self.registry.read().aliases.get(PREVIOUS)
        if previous is not None:
            self._verified(self.registry.version(previous))
        with self._changing():
            return self.registry.roll_back(reason, _text(now))

    def start(self, mode: TrialMode, number: str | None, share: float | None, now: datetime) -> Trial:
        """Tries a version, by default the challenger, beside the champion; a canary that runs gets another share.

        Args:
            mode: How.
            number: The version.
            share: Share of the users that a canary answers; None for the spec's.
            now: The time.

        Raises:
            ReleaseError: another version is tried, or there is nothing to try.
            BundleError: it is broken.
            ServeError: its ids were hashed with another key.
        """
        held, declared = self.registry.read(), self.deployment.spec.serving
        number = number or (held.trial.version if held.trial else None)
        comparison = self.compare(number)
        if comparison.champion is None:
            raise ReleaseError(f"the model {self.registry.name} has no champion to try a version beside.")
        number = comparison.candidate.version
        running = held.trial
        if running is not None and running.version != number:
            raise ReleaseError(
                f"version {running.version} is tried ({running.mode}). Stop that first: `ctr release stop`."
            )
        same = running is not None and running.mode is mode
        canary = declared.canary
        trial = Trial(
            # The users of a canary stay the same when its share changes.
            id=running.id if running is not None and same else secrets.token_hex(8),
            mode=mode,
            version=number,
            share=(canary.share if share is None else share) if mode is TrialMode.CANARY else 0.0,
            started=running.started if running is not None and same else _text(now),
            rules=GuardrailRules(
                false_alarms=canary.false_alarms,
                failures=canary.failures,
                slow_ms=declared.budget_ms if canary.slow_ms is None else canary.slow_ms,
                slow_odds=canary.slow_odds,
                low=canary.low,
                high=canary.high,
                margin=canary.margin,
                early_ratio=canary.early_ratio,
            ),
        )
        with self._changing():
            found = self.registry.read().trial
            if (found.id if found else None) != (running.id if running else None):
                raise ReleaseError("another trial was started or ended meanwhile: see `ctr release status`.")
            if running is not None and not same:
                self.registry.end_trial(running, "stopped", f"it goes on as {mode}", _text(now))
            self.registry.start_trial(trial)
        return trial

    def stop(self, reason: str, now: datetime) -> Trial:
        """Ends the trial that runs; its version stays the challenger.

        Raises:
            ReleaseError: none runs.
        """
        trial = self.registry.read().trial
        if trial is None:
            raise ReleaseError(f"no version of {self.registry.name} is tried.")
        with self._changing():
            self.registry.end_trial(trial, "stopped", reason, _text(now))
        return trial

    def check(self) -> ReleaseStatus:
        """Has Dagster compare what the canary's impressions led to with what was predicted, and roll it back where they differ.

        Raises:
            PipelineError: it cannot be compared.
        """
        set_variables(dagster_variables(self.deployment.paths))
        watch_canary(self.deployment)
        self._folder.forget_read()
        return self.status()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Within it no other command on this data root changes releases; a service that starts later reads the registry."""
        with one_at_a_time(self.deployment.paths.serving / ".releases.lock", LOCK_SECONDS):
            try:
                yield
            finally:
                self._folder.forget_read()

    @property
    def _folder(self) -> ServingFolder:
        return ServingFolder(self.deployment.paths.serving)

    def _there(self, number: str) -> "ModelVersion | None":
        """A version; None where it was deleted."""
        try:
            return self.registry.version(number)
        except ReleaseError:
            return None

    def _verified(self, version: "ModelVersion") -> "Bundle":
        """A version's bundle, verified where servers will take it from."""
        return verified_copy(self.registry, version, self._folder, self.environment)

    def _changes(self, champion: "ModelVersion", bundle: "Bundle") -> list[str]:
        """What of the champion's requests and answers the bundle does not have, and the reverse."""
        from ctr_pipeline.serving import BundleError

        try:
            other = self._verified(champion)
        except (BundleError, ServeError) as error:
            return [f"the champion cannot be opened: {error}"]
        found = []
        for what, own, others in (
            ("features", list(bundle.inputs), list(other.inputs)),
            ("tasks", list(bundle.tasks), list(other.tasks)),
        ):
            fewer, more = [name for name in others if name not in own], [name for name in own if name not in others]
            found += [f"{what} that it does not have any more: {', '.join(fewer)}"] if fewer else []
            found += [f"{what} that are new: {', '.join(more)}"] if more else []
        return found


def _text(now: datetime) -> str:
    return now.isoformat(timespec="seconds")
