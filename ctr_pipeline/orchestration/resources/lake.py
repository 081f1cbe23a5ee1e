"""The Delta tables as a resource."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from ctr_pipeline.lake import Lake


class LakeResource(dg.ConfigurableResource):
    """Gives assets the lake below one folder."""

    root: str

    def open(self) -> "Lake":
        """The lake. Delta's libraries load here, not with the definitions."""
        from ctr_pipeline.lake import Lake

        return Lake(Path(self.root))
