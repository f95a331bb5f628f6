"""A format of `tcae export`: what a class says of it, and how a folder of it is written."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from tcae_cli.errors import UsageError
from tcae_cli.exports import provenance
from tcae_cli.exports.lock import only_run
from tcae_cli.exports.provenance import Provenance
from tcae_cli.exports.registry import FORMATS
from tcae_cli.exports.rows import ExportRows
from tcae_cli.reports.progress import Progress

_PIECE_BYTES = 2**27  # of rows that are encoded together


class ExportFormat(ABC):
    """A format that a trainer reads; an instance writes the rows of one store."""

    name: ClassVar[str]  # in --format
    trainer: ClassVar[str]  # that reads it
    contents: ClassVar[str]  # the files and what they hold, a sentence without a full stop
    takes_scale: ClassVar[bool] = False  # whether values are raw latents times --scale; otherwise they are raw
    needs_classes: ClassVar[bool] = False  # whether a row without a class is refused
    holds_buckets: ClassVar[bool] = False  # whether its trainer reads several folders, of latents of several shapes
    may_be_zip: ClassVar[bool] = False  # whether it may be written to one .zip, too
    most_rows: ClassVar[int] = 4096  # of a piece
    value_bytes: ClassVar[int] = 4  # in the files, for each value of a latent
    of_posterior: ClassVar[str] = "mean"  # which of it the files hold, of a store that has one

    def __init__(self, rows: ExportRows) -> None:
        """Raises UsageError if the format cannot hold these rows."""
        self.rows = rows
        num_without = int((rows.labels < 0).sum()) if self.needs_classes else 0
        if num_without:
            others = [name for name, form in FORMATS.items() if not form.needs_classes]
            raise UsageError(
                f"{rows.store.folder.uri}: {num_without:,} of {len(rows):,} rows have no class, and {self.name} "
                "trains on classes; encode images in class folders, or pass --format "
                f"{', '.join(others[:-1])} or {others[-1]}"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in the files."""
        return self.value_bytes * self.rows.num_values

    @property
    def rows_per_piece(self) -> int:
        """The number of rows that are encoded together."""
        return max(1, min(self.most_rows, _PIECE_BYTES // self.row_bytes))

    @property
    def notes(self) -> list[str]:
        """Sentences on what a user has to tell the trainer."""
        return []

    @property
    def posterior_note(self) -> str | None:
        """A sentence on what the files hold of a posterior, or in place of it; None where they hold latents as ever."""
        if not self.rows.has_posterior:
            return None
        others = " and ".join(name for name, form in FORMATS.items() if form.of_posterior == "mean and deviation")
        return f"values are the means of the store's posterior; {others} hold its deviations too"

    @abstractmethod
    def is_whole(self, folder: Path) -> bool:
        """Return whether every file exists in the folder, by name."""

    @abstractmethod
    def fill(self, folder: Path, progress: Progress) -> int:
        """Write the files that the folder lacks; return the number of rows written."""

    def write(self, target: Path, about: Provenance, progress: Progress) -> int:
        """Write what the target lacks; return the number of rows written.

        Raises UsageError if the target holds something else, DiskError if another process is writing it.
        """
        if provenance.is_complete(target, about) and self.is_whole(target):
            return 0
        with only_run(target, target):
            provenance.begin(target, about)
            num_written = self.fill(target, progress)
            provenance.complete(target, about)
        return num_written


def is_zip(target: Path | str) -> bool:
    """Return whether a target is named as one zip file."""
    return Path(target).suffix.lower() == ".zip"
