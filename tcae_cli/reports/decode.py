"""The request and the report of `tcae decode`."""

from dataclasses import dataclass
from pathlib import Path

from tcae_cli.recipe.choices import MAIN_VIEW, ImageFormat, Precision
from tcae_cli.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """`tcae decode`."""

    store: str
    out_dir: Path
    view: str = MAIN_VIEW
    model: str | None = None  # the one the store was made with
    rows: str | None = None  # all
    format: ImageFormat = "png"
    grid: int = 0  # images in the picture
    force: bool = False
    device: str | None = None
    precision: Precision | None = None  # bf16 on a GPU, fp32 on the CPU


@dataclass(frozen=True, kw_only=True)
class DecodeReport(Report):
    """The files written, and those that were not."""

    out_dir: Path
    num_written: int
    num_skipped_existing: int
    num_not_ok: int
    grid: Path | None
    elapsed_s: float
