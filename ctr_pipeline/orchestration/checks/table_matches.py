"""Do the impressions have rows in the side tables?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctr_pipeline.orchestration.checks.definition import Outcome

MANY_UNMATCHED = 0.2
"""Share of the impressions without a row above which there is a warning."""
FEWEST_ROWS = 10
"""With fewer impressions that have an id it is no surprise when none has a row."""
FEWEST_BROKEN_ROWS = 5
"""Fewer broken rows of a table are never too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEvidence:
    """What a side table gave to the impressions that were read."""

    name: str
    fates: Mapping[str, int]
    """Impressions by what became of them: see ``sources.side_tables``."""
    rows: int
    """Rows of the table."""
    quarantined: Mapping[str, int]
    """Those set aside, by reason."""
    repeated: int
    """Those that say again what another one says."""
    column: str
    """The column of the impression log that it is joined by."""
    key: str
    """The column of the table that it is joined by."""
    timeless: bool
    """Whether its rows hold for every impression."""

    @property
    def impressions(self) -> int:
        """Impressions that were read."""
        return sum(self.fates.values())

    @property
    def matched(self) -> int:
        """Impressions that got a row."""
        return self.fates.get("matched", 0)

    @property
    def metadata(self) -> dict[str, int | float]:
        """The figures, as Dagster's metadata."""
        share = self.matched / self.impressions if self.impressions else 0.0
        return {
            "rows": self.rows,
            "rows_quarantined": sum(self.quarantined.values()),
            "rows_repeated": self.repeated,
            "impressions": self.impressions,
            **self.fates,
            "matched_share": share,
        }


def table_remark(found: TableEvidence) -> str:
    """What a person should know of a side table that was joined."""
    words = {
        "before_first_row": "before the first row of their id",
        "unknown_id": "of an id that the table lacks",
        "without_id": f"without a `{found.column}`",
        "row_set_aside": "whose row was set aside",
    }
    share = f" ({found.matched / found.impressions:.1%})" if found.impressions else ""
    text = f"side table {found.name}: {found.matched:,} of {found.impressions:,} impressions have a row{share}"
    text += "".join(f"; {found.fates[fate]:,} {word}" for fate, word in words.items() if found.fates.get(fate))
    text += f". {found.rows:,} rows read"
    text += f", {found.repeated:,} of them repeated" if found.repeated else ""
    if found.quarantined:
        reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in found.quarantined.items())
        text += f", {sum(found.quarantined.values()):,} set aside ({reasons}; see table side_tables_quarantine)"
    if found.timeless:
        text += (
            ". Its rows have no time (`valid_from: null`): what was written after an impression counts as known before "
            "it, so the model may look better here than it will be"
        )
    return text + "."


def check_side_tables(tables: Sequence[TableEvidence], max_quarantine_share: float) -> Outcome:
    """Error where no impression has a row, or too many rows of a table are broken; a warning where many have none."""
    errors = [text for found in tables for text in _errors(found, max_quarantine_share)]
    warnings = [
        table_remark(found)
        for found in tables
        if found.impressions - found.matched > MANY_UNMATCHED * found.impressions and found.impressions >= FEWEST_ROWS
    ]
    return Outcome(
        passed=not errors and not warnings,
        error=bool(errors),
        metadata={f"{found.name}/{name}": value for found in tables for name, value in found.metadata.items()},
        description=" ".join(errors or warnings) or None,
    )


def _errors(found: TableEvidence, limit: float) -> list[str]:
    errors = []
    with_id = found.impressions - found.fates.get("without_id", 0)
    if not found.matched and found.impressions >= FEWEST_ROWS:
        text = f"No impression of {found.impressions:,} has a row in side table {found.name}: "
        if not with_id:
            text += f"none has a value in `{found.column}`. Name another column in `impression_column`."
        elif found.fates.get("unknown_id", 0) == with_id:
            text += (
                f"no value of `{found.column}` in the impression log is one of `{found.key}` in the table. Do both hold the "
                "same ids? Correct `key` or `impression_column`, or the files of the table."
            )
        elif found.fates.get("before_first_row"):
            text += (
                "its rows are later than the impressions of their id. Does `valid_from` say since when a row was known, in "
                "the right zone and unit? Then the table needs the rows that held before, or, if its values never change, "
                "`valid_from: null`."
            )
        else:
            text += "the rows of their ids were set aside; see table side_tables_quarantine. Correct the table."
        errors.append(text)
    broken = sum(found.quarantined.values())
    if broken > limit * found.rows and broken >= FEWEST_BROKEN_ROWS:
        reasons = ", ".join(f"{reason}: {rows}" for reason, rows in found.quarantined.items())
        errors.append(
            f"Side table {found.name}: {broken} of {found.rows} rows were set aside ({reasons}), above "
            f"quality.max_quarantine_share = {limit:.2%}; see table side_tables_quarantine. Correct the table or raise the "
            "limit."
        )
    return errors
