"""What a section of the acceptance run is given, and what it finds."""

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from tcae_cli.jobs import encode_source
from tcae_cli.sources.index_update import index_source

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Setting:
    """Where and at which size a section runs."""

    device: str  # cpu or cuda
    small: bool  # toy sizes
    folder: Path  # shared by the sections

    def choose(self, full: Choice, small: Choice) -> Choice:
        """Return the first, or the second at toy size."""
        return small if self.small else full

    def prepare(self) -> None:
        """Prepare this process to run a section.

        At toy size one thread computes, since others would mostly wait; images are listed in this process, as another
        would import torch first; and graphs are captured but not compiled, since Inductor takes minutes on a CPU.
        """
        if self.small:
            torch.set_num_threads(1)
            encode_source.index_source_apart = index_source
            nn.Module.compile = partialmethod(_capture, nn.Module.compile)

    def machine(self) -> str:
        """Return the name of the GPU, or "the CPU" with its number of cores."""
        if self.device == "cuda":
            return torch.cuda.get_device_name()
        return f"the CPU, {len(os.sched_getaffinity(0))} cores"

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int) -> float:
        """Return the median time of so many runs of the work, after two that warm up."""
        times = []
        for _ in range(2 + repeats):
            started_at = time.perf_counter()
            work()
            self.synchronize()
            times.append(time.perf_counter() - started_at)
        return statistics.median(times[2:])


def _capture(module: nn.Module, compile: Callable[..., None], **how: Any) -> None:
    """Compile a module with a backend that generates no code, and therefore takes no options.

    The section with ranks traces backward passes, too, which takes twice as long.
    """
    compile(module, **{**how, "backend": "aot_eager" if dist.is_initialized() else "eager", "options": None})


class Findings:
    """The figures of a section, each written to a file as it is found: a section that is killed keeps those it had."""

    def __init__(self, path: Path) -> None:
        """path: of the file to append to."""
        self.path = path

    def note(self, name: str, value: float | str, expected: str = "") -> None:
        """Add a figure, and what was expected of it, without judging it."""
        self._add(name, value, expected, None)

    def check(self, name: str, value: float | str, expected: str, ok: bool) -> None:
        """Add a figure that fails the section if it is not ok."""
        self._add(name, value, expected, bool(ok))

    def read(self) -> list[dict[str, Any]]:
        """Return what was found so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def _add(self, name: str, value: float | str, expected: str, ok: bool | None) -> None:
        shown = float(f"{value:.4g}") if isinstance(value, float) else value
        with self.path.open("a") as file:
            file.write(json.dumps({"name": name, "value": shown, "expected": expected, "ok": ok}) + "\n")


def relative_error(values: torch.Tensor, reference: torch.Tensor) -> float:
    """Return ||values - reference|| / ||reference||; NaN where a value is not a number."""
    reference = reference.double().cpu()
    return float((values.double().cpu() - reference).norm() / reference.norm())
