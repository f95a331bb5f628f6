"""The request and the report of `tcae train` and `tcae finetune`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tcae_cli.errors import UsageError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.reports.report import Report

if TYPE_CHECKING:  # pydantic takes a while to import, and help asks for the defaults only
    from tcae_cli.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """`tcae train` and `tcae finetune`."""

    recipe: "Recipe"
    data: str
    out: Path
    val: str | None = None  # images to measure reconstructions on; some of the data
    data_advice: str = ""  # how to name other data, for the end of a sentence that says why these cannot be used
    val_advice: str = ""
    fields: SampleFields = NO_FIELDS  # of each that can use them; the split is that of the data, if it has any
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
    """The run's folder, checkpoint and last figures."""

    rank: int  # that reports; the first reports for all
    run: Path
    checkpoint: Path
    steps: int
    elapsed_s: float
    figures: dict[str, float]  # the log's last line
