"""The request and the report of `tcae export`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tcae_cli.errors import UsageError
from tcae_cli.recipe.choices import MAIN_VIEW
from tcae_cli.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """`tcae export`."""

    store: str
    target: Path | str  # as it was typed: a Path writes s3://bucket as s3:/bucket
    format: str  # a name in exports/registry.py
    view: str = MAIN_VIEW
    # Of formats that take one: raw latents are multiplied by it, or become what the model's own generators take;
    # None: 1 / std over the store.
    scale: float | Literal["model"] | None = None

    def __post_init__(self) -> None:
        if ":/" in str(self.target):
            raise UsageError(f"{self.target} is not a local path; export to a local folder and copy it from there")
        if self.scale is not None and self.scale != "model" and not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"--scale {self.scale} is not a positive number; correct it")


@dataclass(frozen=True, kw_only=True)
class ExportReport(Report):
    """The files written, and notes on what the trainer has to be told."""

    store: str
    target: Path
    format: str
    num_rows: int  # in the target
    num_not_ok: int  # of the store, omitted
    num_written_now: int
    num_bytes: int
    scale: float | Literal["model"] | None  # values are raw latents times it; None if they are raw
    notes: list[str]
    elapsed_s: float
