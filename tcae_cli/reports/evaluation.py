"""The request and the report of `tcae eval`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tcae_cli.errors import UsageError
from tcae_cli.recipe.choices import NO_FIELDS, Precision, Resize, SampleFields
from tcae_cli.reports.report import DEFAULT_TOLERANCE, DONE, TOO_MANY_FAILED, Report, Tolerance


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """`tcae eval`: models on a source, a store or a folder of reconstructions against it, or generated images."""

    metrics: tuple[str, ...]  # names of metrics; "all" for those that can be computed
    models: tuple[str, ...] = ()  # side by side; with a store, those to decode it with
    data: str | None = None  # the originals; a store's own source, or the sample images
    fields: SampleFields = NO_FIELDS  # of the data
    store: str | None = None
    reconstructions: str | None = None  # images named after the originals
    samples: str | None = None  # generated images; the data are then real ones to compare them with
    probe_data: str | None = None  # labelled images to train the probes on; four fifths of the data
    reference: Path | None = None  # statistics (.npz: mu, sigma) that rFID or gFID is measured against
    weights: dict[str, Path] = field(default_factory=dict)  # of pretrained networks, by name
    report: Path | None = None  # folder for a page of it
    size: int | None = None  # pixels, square; the models'
    resize: Resize | None = None  # adm; a store's own
    precision: Precision = "fp32"
    batch_size: int = 16
    num_workers: int = 1
    device: str | None = None
    max_failures: Tolerance = DEFAULT_TOLERANCE

    def __post_init__(self) -> None:
        if twice := [name for name in self.models if self.models.count(name) > 1]:
            raise UsageError(f"{twice[0]} is named twice; name each model once")
        given = [option for option in ("store", "reconstructions", "samples") if getattr(self, option)]
        if len(given) > 1:
            raise UsageError(f"--{given[0]} and --{given[1]} exclude each other; evaluate one after the other")
        for option in ("reconstructions", "samples"):
            if option in given and self.models:
                raise UsageError(f"--{option} evaluates existing images, so no model is used; omit {self.models[0]}")
            if option in given and self.size is not None:
                raise UsageError(f"the size of the {option} is used; omit --size")
        if self.reconstructions and not self.data:
            raise UsageError("--reconstructions needs the originals; name them with --data")
        for option in ("size", "resize"):
            if self.store and getattr(self, option) is not None:
                raise UsageError(f"the {option} of the store is used; omit --{option}")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of one model, store or folder."""

    name: str
    values: dict[str, float]  # by name, in the order of the table
    channels: dict[str, list[float]] = field(default_factory=dict)  # of the latents: mean, std, ... of each channel


@dataclass(frozen=True, kw_only=True)
class EvalReport(Report):
    """The figures of an evaluation, and how they were taken."""

    rank: int  # that reports; the first reports for all
    data: str
    num_images: int
    num_failed: int  # could not be read, or are not what the store was made from
    failures: list[dict[str, str]]  # the first few: path, reason
    too_many_failed: bool
    protocol: dict[str, str]  # what was done, by step or metric
    evaluations: list[Evaluation]
    skipped: dict[str, str]  # metrics that "all" asked for and that could not be computed, and why
    warnings: list[str]
    page: Path | None  # index.html, where one was asked for
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """3 when more images failed than was allowed."""
        return TOO_MANY_FAILED if self.too_many_failed else DONE

    def as_dict(self) -> dict[str, Any]:
        """Return every field; values that are not finite, which JSON cannot express, are None."""
        fields: dict[str, Any] = finite(super().as_dict())
        return fields


def by_reason(skipped: Mapping[str, str]) -> dict[str, str]:
    """Return the reasons why metrics are skipped, each with the names of those metrics."""
    return {reason: ", ".join(n for n, other in skipped.items() if other == reason) for reason in skipped.values()}


def finite(value: Any) -> Any:
    """Return the value with None for numbers that JSON cannot express."""
    match value:
        case dict():
            return {name: finite(each) for name, each in value.items()}
        case list():
            return [finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value
