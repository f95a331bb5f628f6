"""The log of a run: metrics.jsonl with one line of figures per interval, and TensorBoard events."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcae_cli.errors import DiskError
from tcae_cli.runtime.files import disk_errors, read_errors, write_atomic

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"
TENSORBOARD_FOLDER = "tensorboard"


class MetricsLog:
    """Appends figures to RUN/metrics.jsonl and, where TensorBoard is installed, to RUN/tensorboard.

    Lines after `first_step`, left by a run that was cut off, are removed. Raises DiskError.
    """

    def __init__(self, run: Path, first_step: int) -> None:
        self._path = run / METRICS_FILE
        if self._path.exists():
            kept = [data for data, line in whole_lines(self._path) if line["step"] <= first_step]
            write_atomic(self._path, b"".join(kept))
        self._events_folder = run / TENSORBOARD_FOLDER
        self._events = _open_tensorboard(self._events_folder, first_step)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Append the figures of `step`, the number of steps done; those that are not finite become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        with disk_errors(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        if self._events is not None:
            with disk_errors(self._events_folder):
                for name, value in figures.items():
                    self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the TensorBoard events."""
        if self._events is not None:
            with disk_errors(self._events_folder):
                self._events.close()


def _open_tensorboard(folder: Path, first_step: int) -> "SummaryWriter | None":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # TensorBoard is optional
        return None
    with disk_errors(folder):
        return SummaryWriter(str(folder), purge_step=first_step + 1)


def whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the bytes and the figures of each complete line; a run that was cut off may have left a partial one.

    Raises DiskError for a line that is damaged.
    """
    with read_errors(path):
        lines = path.read_bytes().splitlines(keepends=True)
    for number, data in enumerate(lines, start=1):
        if not data.endswith(b"\n"):
            continue
        try:
            line: dict[str, Any] = json.loads(data)
            is_whole = "step" in line and all(isinstance(each, int | float | None) for each in line.values())
        except (ValueError, TypeError, AttributeError, RecursionError):
            is_whole = False
        if not is_whole or line["step"] is None:
            raise DiskError(f"{path}, line {number} is damaged; remove it and repeat")
        yield data, line
