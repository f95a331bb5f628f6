"""The requests and the reports of `tcae info` and `tcae verify`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.reports.failure import Failure
from tcae_cli.reports.report import DONE, Report

PROBLEMS_FOUND = 1


@dataclass(frozen=True, kw_only=True)
class InfoRequest:
    """`tcae info`."""

    store: str


@dataclass(frozen=True, kw_only=True)
class InfoReport(Report):
    """A store and its progress; while it is incomplete, figures are of the shards that are committed."""

    store: str
    complete: bool
    created_at: str
    tool_versions: dict[str, str]
    num_rows: int
    rows: dict[str, int]  # ok, failed, pending, encoded_again_in_float32
    num_repaired: int  # rows that stood for lost parts of tars that are whole again; not among the failed ones
    num_too_small: int  # rows of images that --min-size leaves out; not among the failed ones
    num_shards: int
    num_shards_committed: int
    num_shards_damaged: int  # committed, but a file is missing or of another size
    rows_per_shard: int
    writers: list[dict[str, Any]]  # processes at work now: host, pid, silence_s
    views: dict[str, dict[str, Any]]  # name -> size, flip, shape [c, h, w]; of a square, where there are buckets
    buckets: list[dict[str, Any]]  # name (height x width in pixels), num_rows, share, failed, pending, shape [c, h, w]
    dtype: str
    codec: str
    encoder: dict[str, Any]  # name, hash, spec, recipe
    generators_take: str | None  # of the model, in place of raw latents; None where that is not known
    transform: dict[str, Any]
    compute: dict[str, Any]  # dtype, batch_size
    source: dict[str, Any]  # uri, count, fingerprint, class_names
    labels_from: dict[str, int]  # rows with a label, by the place that states it
    captions_from: dict[str, int]
    bytes_on_disk: int
    bytes_per_image: float | None  # of all files, over the ok rows; None while there are none
    share_of_raw_latents: float | None  # files of latents over the same latents without a codec
    share_of_pixels: float | None  # all files over 8-bit pixels of the views' sizes
    failures_by_stage: dict[str, int]
    failures: list[Failure]  # the first few
    duplicates: dict[str, Any]  # num_groups, num_rows; keys: of the first few groups, the first few of each
    statistics: dict[str, dict[str, Any]]  # view -> mean, std, channel_std_min, channel_std_max, num_nearly_dead
    posterior: dict[str, float]  # view -> share of its variance that is its posterior's; none without deviations
    quantisation: dict[str, dict[str, Any]]  # int8 array -> scale_min, scale_max, relative_rmse, num_clipped
    psnr_float32: float | None  # dB, over the calibration sample of int8
    psnr_int8: float | None


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """`tcae verify`."""

    store: str
    source: str | None = None  # compared with in full; for the sample, by default the recorded one
    fields: SampleFields = NO_FIELDS  # of the source
    model: str | None = None  # the one the store was made with
    num_rows: int = 16  # of the sample that is decoded
    picture: Path | None = None  # STORE's name and "-verify.png", in the current folder
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class VerifyReport(Report):
    """The extent of the checks, and the problems found."""

    store: str
    complete: bool
    num_rows: int
    num_ok: int  # rows of the shards checked
    num_failed: int
    num_repaired: int
    num_too_small: int  # rows of images that --min-size leaves out; not among the failed ones
    num_shards: int
    num_shards_checked: int  # those with a record
    num_files: int
    num_bytes: int
    damaged_records: list[str]  # the records of shards with problems; without them they are encoded again
    source: str | None  # compared with
    num_compared: int  # images whose bytes were read there
    sample: list[dict[str, Any]]  # row, key, view, psnr, psnr_fresh (of latents encoded now); dB
    mean_psnr: dict[str, dict[str, float]]  # view -> psnr, psnr_fresh
    picture: Path | None
    problems: list[str]  # the first of them
    num_problems: int
    not_checked: list[str]  # the checks that could not be made, and why
    notes: list[str]  # what the store lacks, though that is no problem
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """1 when there are problems; an incomplete store may be sound."""
        return PROBLEMS_FOUND if self.num_problems else DONE
