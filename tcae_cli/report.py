"""What jobs take and give back: requests, reports with their exit codes, and the Progress they speak to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from tcae_cli.errors import UsageError
from tcae_cli.recipe.schema import Recipe

DONE, TOO_MANY_FAILED = 0, 3


class Progress(Protocol):
    """Where a job tells how far it is; the console draws it, tests ignore it."""

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Begin a task of `total` units of which `done` were finished before."""

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        """Count units finished, how many of them failed, and a short note to show beside the rate."""

    def say(self, sentence: str) -> None:
        """Show one sentence now."""


class Silent:
    """A Progress that shows nothing."""

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None: ...
    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None: ...
    def say(self, sentence: str) -> None: ...


@dataclass(frozen=True)
class Tolerance:
    """How many samples may fail: a share of all, or a count."""

    limit: float
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> "Tolerance":
        """ "1%" is a share, "12" a count. Raises UsageError for anything else."""
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = -1.0
        is_share = text.endswith("%")
        if not (0 <= number <= 100 if is_share else number >= 0 and number.is_integer()):
            raise UsageError(f"--max-failures {text} is neither a share like 1% nor a count like 12")
        return cls(number / 100 if is_share else number, is_share)

    def exceeded(self, failed: int, total: int) -> bool:
        """Whether `failed` of `total` are too many."""
        return failed > (self.limit * total if self.is_share else self.limit)


class Report:
    """What a job did; `as_dict` is what --json prints."""

    @property
    def exit_code(self) -> int:
        """The process's exit code."""
        return DONE

    def as_dict(self) -> dict[str, Any]:
        """Every field, in types JSON knows."""
        fields = asdict(self)  # type: ignore[call-overload]
        return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}


@dataclass(frozen=True, kw_only=True)
class EncodeRequest:
    """`tcae encode-dataset`."""

    source: str
    store: str
    model: str = "tcae-tiny"
    device: str | None = None  # a GPU where there is one
    precision: Literal["bf16", "fp32"] | None = None  # bf16 on a GPU, fp32 on the CPU
    batch_size: int = 64
    num_workers: int | None = None  # by the number of cores
    sizes: tuple[int, ...] = ()  # pixels, a view each; the model's
    flip: bool = False  # the mirrored images too
    resize: Literal["torch", "adm"] = "torch"
    dtype: Literal["float16", "float32", "int8"] = "float16"
    codec: Literal["zstd", "none", "lz4-bitshuffle"] = "zstd"
    append: bool = False  # rows for images that are new in the source
    retry_failed: bool = False
    num_parts: int = 1
    part: int = 0  # of the parts, from 0: the shards this launch fills
    max_failures: Tolerance = Tolerance(0.01, is_share=True)

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.num_parts:
            raise UsageError(
                f"--part {self.part} of --num-parts {self.num_parts}: parts are numbered from 0; correct it"
            )


@dataclass(frozen=True, kw_only=True)
class EncodeReport(Report):
    """What the store holds after a run, and what this process did for it."""

    store: str
    num_rows: int
    num_ok: int
    num_failed: int
    num_encoded_now: int  # rows, by this process
    elapsed_s: float  # from the first batch to the last commit, by this process
    stage_seconds: dict[str, float]  # each stage's busy time, by this process
    bytes_on_disk: int
    num_clipped: int  # values beyond what int8 holds
    failures: list[dict[str, Any]]  # the first few: row, path, stage, error
    complete: bool
    decides: bool  # whether this process saw the store complete: one of a launch, and only it may exit with 3
    too_many_failed: bool

    @classmethod
    def of_ranks(cls, reports: Sequence["EncodeReport"]) -> "EncodeReport":
        """The report of a launch: the deciding rank's, with all ranks' work; stages ran side by side on the ranks."""
        names = next((rank.stage_seconds for rank in reports if rank.stage_seconds), {})
        stages = {name: [rank.stage_seconds.get(name, 0.0) for rank in reports] for name in names}
        return replace(
            max(reports, key=lambda rank: (rank.decides, rank.complete)),
            num_encoded_now=sum(rank.num_encoded_now for rank in reports),
            elapsed_s=max(rank.elapsed_s for rank in reports),
            stage_seconds={name: sum(seconds) / len(seconds) for name, seconds in stages.items()},
        )

    @property
    def exit_code(self) -> int:
        """3 from the process that finished the store, when more failed than was allowed."""
        return TOO_MANY_FAILED if self.decides and self.too_many_failed else DONE

    @property
    def slowest_stage(self) -> str | None:
        """The stage that was busy longest; None when nothing was encoded."""
        return max(self.stage_seconds, key=self.stage_seconds.__getitem__, default=None)


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """`tcae decode`."""

    store: str
    out_dir: Path
    view: str = "latents"
    model: str | None = None  # the one the store was made with
    rows: str | None = None  # all
    format: Literal["png", "jpg", "webp"] = "png"
    grid: int = 0  # images in the picture
    force: bool = False
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class DecodeReport(Report):
    """Files written."""

    out_dir: Path
    num_written: int
    num_skipped_existing: int
    num_not_ok: int
    grid: Path | None
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """`tcae train` and `tcae finetune`."""

    recipe: Recipe
    data: str
    out: Path
    val: str | None = None  # images to measure reconstructions on; some of the data
    resume: bool = False
    parent: str | None = None  # the model to finetune; none: from scratch
    freeze_encoder: bool = False  # train the parent's decoder alone
    weights: dict[str, Path] = field(default_factory=dict)  # of pretrained networks, by name
    device: str | None = None
    num_workers: int = 1

    def __post_init__(self) -> None:
        if self.freeze_encoder and self.recipe.loss.self_distillation is not None:
            raise UsageError(
                "--freeze encoder leaves self-distillation nothing to train; add --set loss.self_distillation=none"
            )


@dataclass(frozen=True, kw_only=True)
class TrainReport(Report):
    """Where the run is and how it stands."""

    rank: int  # that reports; the first speaks for all
    run: Path
    checkpoint: Path
    steps: int
    elapsed_s: float
    figures: dict[str, float]  # the log's last line
