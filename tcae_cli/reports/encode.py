"""The request and the report of `tcae encode-dataset`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from tcae_cli.errors import UsageError
from tcae_cli.recipe.choices import DEFAULT_MODEL, NO_FIELDS, Decode, LatentDtype, Precision, Resize, SampleFields
from tcae_cli.reports.failure import Failure
from tcae_cli.reports.report import DEFAULT_TOLERANCE, DONE, TOO_MANY_FAILED, Report, Tolerance


@dataclass(frozen=True, kw_only=True)
class EncodeRequest:
    """`tcae encode-dataset`."""

    source: str
    store: str
    fields: SampleFields = NO_FIELDS  # of the source
    classes: str | None = None  # a file of class names or a store, whose places are class numbers
    model: str = DEFAULT_MODEL
    device: str | None = None  # a GPU where there is one
    precision: Precision | None = None  # bf16 on a GPU, fp32 on the CPU
    compile: bool | None = None  # the encoder's blocks; as the store was begun, in a new one on a GPU
    strict: bool = False  # refuse to resume a store of a compiled encoder on another kind of machine
    batch_size: int = 64
    num_workers: int | None = None  # by the number of cores
    sizes: tuple[int, ...] = ()  # pixels, a view each; the model's
    flip: bool = False  # the mirrored images too
    posterior: bool = False  # the deviations of latents too
    buckets: bool = False  # each image in a shape near its own, rather than cropped to a square
    bucket_step: int | None = None  # pixels; the model's downsampling, at least 64
    max_aspect: float = 2.0  # of a bucket
    resize: Resize = "torch"
    decode: Decode | None = None  # as the store was begun; in a new store draft, except with adm
    min_size: int | None = None  # pixels of the shorter side, of images that are encoded
    dtype: LatentDtype = "float16"
    codec: str = "zstd"  # of store/codecs/registry.py
    append: bool = False  # rows for images that are new in the source
    retry_failed: bool = False
    update_metadata: bool = False  # bring labels and captions up to date, and encode nothing
    num_parts: int = 1
    part: int = 0  # of the parts, from 0: the shards this launch fills
    max_failures: Tolerance = DEFAULT_TOLERANCE

    def __post_init__(self) -> None:
        if self.resize == "adm" and self.decode == "draft":
            raise UsageError("--resize adm always decodes images in full; omit --decode draft, or use --resize torch")
        given = {
            "--bucket-step": self.bucket_step != EncodeRequest.bucket_step,
            "--max-aspect": self.max_aspect != EncodeRequest.max_aspect,
        }
        for option in (option for option, is_given in given.items() if is_given and not self.buckets):
            raise UsageError(f"{option} is of buckets; add --buckets, or omit it")
        others = {"--append": self.append, "--retry-failed": self.retry_failed, "--num-parts": self.num_parts > 1}
        for option in (option for option, is_given in others.items() if is_given and self.update_metadata):
            raise UsageError(f"--update-metadata encodes nothing, and works on the whole store; omit {option}")
        if not 0 <= self.part < self.num_parts:
            raise UsageError(
                f"--part {self.part} of --num-parts {self.num_parts}: parts are numbered from 0; correct it"
            )


@dataclass(frozen=True, kw_only=True)
class UpdateReport(Report):
    """The labels and captions that `tcae encode-dataset --update-metadata` brought up to date."""

    store: str
    num_rows: int
    num_labels: int  # rows that have another label now
    num_captions: int  # rows that have another caption now
    num_classes: int  # by name; 0: classes have no names
    updated: bool  # False: there was nothing to do
    num_new: int  # images of the source that the store does not hold


@dataclass(frozen=True, kw_only=True)
class EncodeReport(Report):
    """The state of the store after a run, and the work that this process did."""

    store: str
    num_rows: int
    num_ok: int
    num_failed: int
    num_repaired: int  # rows that stood for lost parts of tars that are whole again; not among the failed ones
    num_too_small: int  # rows of images that --min-size leaves out; not among the failed ones
    labels_from: dict[str, int]  # rows with a label, by the place that states it
    captions_from: dict[str, int]
    num_encoded_now: int  # rows, by this process
    elapsed_s: float  # from loading the model to the last commit, by this process
    startup_s: float  # of these, until the first batch was read
    stage_seconds: dict[str, float]  # each stage's busy time, by this process
    bytes_on_disk: int
    num_clipped: int  # values beyond the range of the int8 scales
    failures: list[Failure]  # the first few
    complete: bool
    decides: bool  # whether this process saw the store complete: one of a launch, and only it may exit with 3
    too_many_failed: bool

    @classmethod
    def of_ranks(cls, reports: Sequence[Self]) -> Self:
        """Return the report of a launch: the deciding rank's, with all ranks' work; their stages ran side by side."""
        names = next((rank.stage_seconds for rank in reports if rank.stage_seconds), {})
        stages = {name: [rank.stage_seconds.get(name, 0.0) for rank in reports] for name in names}
        return replace(
            max(reports, key=lambda rank: (rank.decides, rank.complete)),
            num_encoded_now=sum(rank.num_encoded_now for rank in reports),
            elapsed_s=max(rank.elapsed_s for rank in reports),
            startup_s=max(rank.startup_s for rank in reports),
            stage_seconds={name: sum(seconds) / len(seconds) for name, seconds in stages.items()},
        )

    @property
    def exit_code(self) -> int:
        """3 from the process that finished the store, if more samples failed than allowed; else 0."""
        return TOO_MANY_FAILED if self.decides and self.too_many_failed else DONE

    @property
    def steady_s(self) -> float:
        """The seconds after start-up, for rates that are to hold for any number of images."""
        return self.elapsed_s - self.startup_s

    @property
    def slowest_stage(self) -> str | None:
        """The stage that was busy longest; None when nothing was encoded."""
        return max(self.stage_seconds, key=self.stage_seconds.__getitem__, default=None)
