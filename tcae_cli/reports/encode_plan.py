"""The request and the report of `tcae encode-dataset --dry-run`."""

from dataclasses import dataclass

from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.report import DONE, FAILED, Report, Span


@dataclass(frozen=True, kw_only=True)
class EncodePlanRequest:
    """A dry run of encoding."""

    encode: EncodeRequest
    num_ranks: int


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A few batches that were read, encoded and written to a folder that is gone."""

    num_images: int
    num_failed: int
    batch_size: int  # smaller than that of the command where a batch takes long
    images_per_s: Span  # of a rank
    stage_seconds: dict[str, float]  # each stage's busy time
    memory_bytes: int | None  # the most that a rank takes, without its decoding processes; None: cannot be measured


@dataclass(frozen=True, kw_only=True)
class EncodePlan(Report):
    """What encoding would do and take; nothing has been written."""

    rank: int  # that reports; the first reports for all
    store: str
    source: str
    num_images: int  # in the source
    num_rows: int  # of this part of the store, all rows without parts
    num_rows_left: int  # of these, to be encoded
    num_shards: int  # of the store
    rows_per_shard: int
    num_files: int  # of the whole store
    store_bytes: int  # of the whole store
    bytes_left: int  # to be written
    free_bytes: int | None  # of the disk; None for an object store
    model: str
    encoder_hash: str
    encoder_parameters: int
    encode_macs: float  # multiply-accumulates an image, over all views
    device: str  # that was measured
    device_bytes: int  # memory of the device, or of this machine
    num_ranks: int
    rehearsal: Rehearsal
    seconds: Span | None  # for the rows that are left; None: there are none
    missing: list[str]  # sentences

    @property
    def exit_code(self) -> int:
        """1 if the disk is too small."""
        return FAILED if self.free_bytes is not None and self.bytes_left > self.free_bytes else DONE

    @property
    def slowest_stage(self) -> str:
        """The stage that was busy longest."""
        stages = self.rehearsal.stage_seconds
        return max(stages, key=stages.__getitem__)
