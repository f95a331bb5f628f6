"""Reads the row groups of tables, and the rows of compressed tars, each in order, for a training stream."""

from collections.abc import Iterator
from dataclasses import dataclass

from tcae_cli.errors import ImageError
from tcae_cli.sources.source import Source


@dataclass(frozen=True)
class RowGroups:
    """The runs of rows of a source that are best read together; a worker has one of them in memory."""

    source: Source
    groups: tuple[range, ...]
    words = "row groups"

    @property
    def uri(self) -> str:
        """The source, as the user named it."""
        return self.source.uri

    def __len__(self) -> int:
        return len(self.groups)

    def images(self, number: int, portion: int, num_portions: int) -> Iterator[tuple[int, bytes | None]]:
        rows = self.groups[number][portion::num_portions]
        for row, data in zip(rows, self.source.read_many(rows), strict=True):
            yield row - self.groups[number].start, None if isinstance(data, ImageError) else data
