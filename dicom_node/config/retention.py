"""``[retention]``: what of a node's images and results is removed, and when."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dicom_node.config.values import Table


class Retention(Table):
    """``[retention]``: when files of studies that are done with are removed; without ``days`` never."""

    days: Annotated[float, Field(strict=True, ge=0.04, le=36500, allow_inf_nan=False)] | None = None
    """Files of a study that is done with are removed after so many days without any change."""
    free_gb: Annotated[float, Field(strict=True, gt=0, le=1_000_000, allow_inf_nan=False)] | None = None
    """Files are removed only while fewer gigabytes are free; more than keep_free_gb."""
    committed_days: Annotated[float, Field(strict=True, ge=0.04, le=36500, allow_inf_nan=False)] | None = None
    """Images promised to a modality are kept for so many days; without it nothing is promised while days is set."""

    @property
    def commits(self) -> bool:
        """Whether commitment may be given: nothing is removed, or IT has said for how long it binds."""
        return self.days is None or self.committed_days is not None

    @model_validator(mode="after")
    def _days_beside(self) -> Retention:
        for key in ("free_gb", "committed_days"):
            if getattr(self, key) is not None and self.days is None:
                raise ValueError(f"retention.{key} alone removes nothing: expected retention.days beside it")
        return self
