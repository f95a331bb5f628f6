"""What `tcae export` takes and gives back."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tcae_cli.errors import UsageError
from tcae_cli.recipe.choices import MAIN_VIEW
from tcae_cli.reports.report import Report

ExportFormat = Literal["lightningdit", "edm2", "repa", "dc-ae", "webdataset", "mds", "npy"]
SCALED: tuple[ExportFormat, ...] = ("dc-ae", "webdataset", "mds")  # their trainers take values as they are


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """`tcae export`."""

    store: str
    target: Path | str  # as it was typed: a Path writes s3://bucket as s3:/bucket
    format: ExportFormat
    view: str = MAIN_VIEW
    scale: float | None = None  # raw latents are multiplied by it; 1 / std over the store

    def __post_init__(self) -> None:
        if ":/" in str(self.target):
            raise UsageError(f"{self.target} is not a local path; export to a local folder and copy it from there")
        if self.is_zip and self.format != "edm2":
            raise UsageError(f"--format {self.format} is read from folders only, not {self.target}; name a folder")
        if self.scale is None:
            return
        if self.format not in SCALED:
            raise UsageError(f"--scale is of {', '.join(SCALED)}; {self.format} takes raw latents, leave it out")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"--scale {self.scale} is not a positive number; correct it")

    @property
    def is_zip(self) -> bool:
        """Whether the target is one file."""
        return Path(self.target).suffix.lower() == ".zip"


@dataclass(frozen=True, kw_only=True)
class ExportReport(Report):
    """What was written, and what its trainer has to be told."""

    store: str
    target: Path
    format: str
    num_rows: int  # in the target
    num_not_ok: int  # of the store, left out
    num_written_now: int
    num_bytes: int
    scale: float | None  # values are raw latents times it; None: raw
    notes: list[str]
    elapsed_s: float
