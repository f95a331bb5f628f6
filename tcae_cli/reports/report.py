"""The base of every report, with its JSON and exit code; and how many samples may fail."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tcae_cli.errors import UsageError

DONE = 0
FAILED = 1
TOO_MANY_FAILED = 3


class Report:
    """The outcome of a job; --json prints `as_dict`."""

    @property
    def exit_code(self) -> int:
        """The process's exit code."""
        return DONE

    @classmethod
    def of_ranks(cls, reports: Sequence[Self]) -> Self:
        """Return the report of a launch; the first rank's speaks for all, unless a kind of report says otherwise."""
        return reports[0]

    def as_dict(self) -> dict[str, Any]:
        """Return every field, in types that JSON can express."""
        fields = asdict(self)  # type: ignore[call-overload]
        return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}


@dataclass(frozen=True)
class Span:
    """A measured quantity, with its spread."""

    lowest: float
    median: float
    highest: float


@dataclass(frozen=True)
class Tolerance:
    """The number of samples that may fail: a share of all, or a count."""

    limit: float
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> "Tolerance":
        """Return the tolerance of "1%", a share, or "12", a count. Raises UsageError for anything else."""
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = -1.0
        is_share = text.endswith("%")
        if not (0 <= number <= 100 if is_share else number >= 0 and number.is_integer()):
            raise UsageError(f"--max-failures {text} is neither a share like 1% nor a count like 12")
        return cls(number / 100 if is_share else number, is_share)

    def __str__(self) -> str:
        return f"{100 * self.limit:g}%" if self.is_share else f"{self.limit:g}"

    def exceeded(self, failed: int, total: int) -> bool:
        """Return whether `failed` of `total` are too many."""
        return failed > (self.limit * total if self.is_share else self.limit)


DEFAULT_TOLERANCE = Tolerance(0.01, is_share=True)
