"""The request and the report of `tcae train --dry-run` and `tcae finetune --dry-run`."""

from dataclasses import dataclass
from pathlib import Path

from tcae_cli.reports.report import DONE, FAILED, Report, Span
from tcae_cli.reports.train import TrainRequest


@dataclass(frozen=True, kw_only=True)
class TrainPlanRequest:
    """A dry run of training."""

    train: TrainRequest  # whose data is "" where no images are named
    num_ranks: int
    no_data: str = ""  # why no images are named, in a sentence


@dataclass(frozen=True, kw_only=True)
class TrainPlan(Report):
    """What a run would do and take; nothing has been written."""

    rank: int  # that reports; the first reports for all
    run: Path
    device: str  # that was measured
    num_ranks: int
    micro_batch: int  # images that a rank computes at a time
    accumulate: int  # micro-batches of a rank in a step
    batch_size: int  # images in a step, over all ranks
    steps: int  # of the whole run
    first_step: int  # steps done already
    data: str  # "": no images are named
    num_images: int | None  # in the data; None where unknown
    epochs: float | None  # of the whole run
    parameters: int  # of the autoencoder
    trained_parameters: int  # that learn, those of heads and discriminator too
    encode_macs: float  # multiply-accumulates an image
    decode_macs: float
    step_macs: float  # an image: forward and backward of every part of the loss, frozen networks too
    game_macs: float  # an image, on top of these once the autoencoder learns from a discriminator
    memory_bytes: int  # the most that the tensors of a rank take at once
    device_bytes: int  # memory of the device, or of this machine
    pace_basis: str  # what was measured for the time
    seconds_per_step: Span
    seconds: Span  # of all steps that are left
    read_images_per_s: float | None  # by all decoding processes; None where it was not measured
    checkpoint_bytes: int  # of the run's two files
    disk_bytes: int  # the most that they take while they are replaced
    free_bytes: int  # of the disk
    num_files: int
    missing: list[str]  # sentences

    @property
    def exit_code(self) -> int:
        """1 if the disk is too small."""
        return FAILED if self.disk_bytes > self.free_bytes else DONE
