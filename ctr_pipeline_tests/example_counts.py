"""How many random examples the tests try of which each example is costly."""

from hypothesis import settings

NIGHTLY = "nightly"
"""Profile of Hypothesis under which such tests try all their examples; `make test-nightly` names it."""


def costly(examples: int) -> int:
    """``examples`` in the nightly target, and a quarter of them, but five at least, in each build."""
    if settings.get_current_profile_name() == NIGHTLY:
        return examples
    return min(examples, max(5, examples // 4))
