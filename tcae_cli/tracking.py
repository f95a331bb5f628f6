"""What a run leaves to look at: metrics.jsonl, one line of figures an interval."""

import json
from pathlib import Path

from tcae_cli.runtime.files import write_atomic

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends lines of figures to RUN/metrics.jsonl; lines at or after `first_step`, of a run that was cut off, go."""

    def __init__(self, run: Path, first_step: int) -> None:
        self._path = run / METRICS_FILE
        if self._path.exists():
            lines = self._path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= first_step]
            write_atomic(self._path, b"".join(kept))

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Append the figures of `step`, the number of steps done."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
