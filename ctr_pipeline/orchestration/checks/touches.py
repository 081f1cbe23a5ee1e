"""Do events that name no impression belong to one?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctr_pipeline.orchestration.checks.definition import Outcome
from ctr_pipeline.spec.fields import format_duration
from ctr_pipeline.spec.source import EventLog

FEWEST_EVENTS = 10
"""With fewer events that have ids it is no surprise when none has an impression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchEvidence:
    """What became of the events of one log that name no impression."""

    log: EventLog
    fates: Mapping[str, int]
    """Events of used types by what became of them: see ``sources.last_touch``."""

    @property
    def events(self) -> int:
        """Events that were read."""
        return sum(self.fates.values())

    @property
    def attributed(self) -> int:
        """Those that belong to an impression."""
        return self.fates.get("attributed", 0) + self.fates.get("ambiguous", 0)

    @property
    def metadata(self) -> dict[str, int | float]:
        """The figures, as Dagster's metadata."""
        return {
            "events": self.events,
            "attributed": self.attributed,
            "attributed_share": self.attributed / self.events if self.events else 0.0,
            "ambiguous": self.fates.get("ambiguous", 0),
            "unattributed": self.fates.get("unattributed", 0),
            "without_key": self.fates.get("without_key", 0),
        }


def touch_remark(found: TouchEvidence) -> str:
    """What a person should know of the attribution of a log."""
    assert found.log.attribute is not None, "only logs that declare it are attributed"
    by = " and ".join(f"`{column}`" for column in found.log.attribute.by.values())
    share = f" ({found.attributed / found.events:.1%})" if found.events else ""
    text = (
        f"event log {found.log.name}: {found.attributed:,} of {found.events:,} events belong to an impression{share}, the "
        f"latest of the same {by} within {format_duration(found.log.attribute.within)} before"
    )
    for fate, words in (
        ("unattributed", "unattributed, without such an impression"),
        ("without_key", f"without {by.replace(' and ', ' or ')}"),
        ("ambiguous", "of several impressions at one instant, of which one was taken"),
    ):
        text += f"; {found.fates[fate]:,} {words}" if found.fates.get(fate) else ""
    return text + "."


def check_touches(logs: Sequence[TouchEvidence]) -> Outcome:
    """Error where no event of a log belongs to an impression: then the columns do not hold the same ids."""
    errors = []
    for found in logs:
        if found.attributed or found.events < FEWEST_EVENTS:
            continue
        assert found.log.attribute is not None, "only logs that declare it are attributed"
        pairs = ", ".join(f"`{column}` with `{shown}`" for shown, column in found.log.attribute.by.items())
        errors.append(
            f"{touch_remark(found)} Do these columns hold the same ids as the impression log ({pairs}), and are the times "
            f"of both logs in one zone and unit? Correct them, or `attribute` of {found.log.name} in the spec."
        )
    return Outcome(
        passed=not errors,
        error=True,
        metadata={f"{found.log.name}/{name}": value for found in logs for name, value in found.metadata.items()},
        description=" ".join(errors) or None,
    )
