"""Lists the rows of Parquet files from their footers and small columns, without reading the images."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from tcae_cli.errors import SourceError, TcaeError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.runtime.folder import Folder, open_to_read
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.columns import number_labels
from tcae_cli.sources.listing import Container, Entry, Group, Listing
from tcae_cli.sources.parquet_file import OpenParquet, file_beside, first_line
from tcae_cli.sources.schema import Columns, captions_in, choose_columns, labels_in, paths_in

_READ_AHEAD_BYTES = 1 << 16  # as much as Arrow first takes a footer for; a column of labels may be tiny


def list_parquet(
    uri: str, root: str, names: Sequence[str], fields: SampleFields, on_progress: Callable[[int], None]
) -> Listing:
    """List the rows of the Parquet files of these names below a root, as ParquetFiles.scan does.

    The key of a row is the path of its image, if it has one that is unique in its file and in none before it, otherwise
    the name of its file and its number there.
    """
    folder = open_to_read(root)
    rows = _Rows(uri, root)
    for file in folder.in_order(partial(_read_file, folder, fields), names):
        rows.add(file)
        on_progress(len(rows.keys))
    if not rows.keys:
        raise SourceError(f"{uri} has no rows; give Parquet files that hold images")
    return rows.listing()


@dataclass
class _FileRows:
    """The rows of one file, in one list for each field."""

    name: str
    where: str  # for messages
    columns: Columns
    groups: tuple[Group, ...]
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)  # by row


def _read_file(folder: Folder, fields: SampleFields, name: str) -> _FileRows:
    """Read the footer and the small columns of a file; a damaged row group is so many rows with a problem."""
    opened = OpenParquet(folder, name, read_ahead_bytes=_READ_AHEAD_BYTES)
    try:
        columns = choose_columns(opened.file.schema_arrow, fields, opened.where)
        found = _FileRows(name, opened.where, columns, opened.groups(columns.image))
        for number, group in enumerate(found.groups):
            try:
                table = opened.file.read_row_group(number, columns=columns.beside_the_images())
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, (TcaeError, FileNotFoundError)):  # it is not damaged, but out of reach
                    raise
                problem = f"row group {number} of {name} cannot be read ({first_line(error)}); copy the file again"
                start = len(found.paths)
                found.problems |= dict.fromkeys(range(start, start + group.num_rows), problem)
                found.paths += [""] * group.num_rows
                found.labels += [""] * group.num_rows
                found.captions += [""] * group.num_rows
                continue
            found.paths += paths_in(table, columns, group.num_rows)
            found.labels += labels_in(table, columns, group.num_rows, opened.where)
            found.captions += captions_in(table, columns, group.num_rows, opened.where)
        return found
    finally:
        opened.close()


@dataclass
class _Rows:
    """The rows of several files, in one list for each field of an Entry."""

    uri: str
    root: str
    columns: Columns | None = None  # of all files
    containers: list[Container] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)  # by place in these lists
    taken: set[str] = field(default_factory=set)  # the paths among the keys

    def add(self, file: _FileRows) -> None:
        """Add the rows of a file. Raises SourceError if its columns are not those of the files before it."""
        if self.columns not in (None, file.columns):
            first = self.containers[0].name
            raise SourceError(f"{file.where} has other columns or classes than {first}; encode them separately")
        self.columns = file.columns
        start = len(self.keys)
        self.problems |= {start + row: problem for row, problem in file.problems.items()}
        self.keys += self._keys_of(file.name, file.paths, file.columns)
        self.labels += file.labels
        self.captions += file.captions
        self.containers.append(Container(file.name, groups=file.groups))

    def _keys_of(self, name: str, paths: Sequence[str], columns: Columns) -> Iterator[str]:
        if columns.is_file_name:
            return (file_beside(name, path) if path else _row_key(name, row) for row, path in enumerate(paths))
        counts = Counter(paths)
        unique = [path if path and counts[path] == 1 and path not in self.taken else "" for path in paths]
        self.taken.update(unique)
        return (path or _row_key(name, row) for row, path in enumerate(unique))

    def listing(self) -> Listing:
        """Return the listing of all rows."""
        assert self.columns is not None
        labels, class_names = number_labels(self.labels)
        make = self._files if self.columns.is_file_name else self._rows
        return Listing(
            uri=self.uri,
            root=self.root,
            entries=list(make(labels)),
            class_names=self.columns.class_names or class_names,
            containers=() if self.columns.is_file_name else tuple(self.containers),
            kind="parquet",
            image_column=self.columns.image,
        )

    def _rows(self, labels: Sequence[int]) -> Iterator[Entry]:
        """Yield the rows whose images lie in the files."""
        index = 0
        for number, container in enumerate(self.containers):
            for row in range(sum(group.num_rows for group in container.groups)):
                problem = self.problems.get(index, "")
                yield Entry(self.keys[index], 0, labels[index], self.captions[index], number, row, problem)
                index += 1

    def _files(self, labels: Sequence[int]) -> Iterator[Entry]:
        """Yield the rows whose images are files of their own."""
        for index, (key, label, caption) in enumerate(zip(self.keys, labels, self.captions, strict=True)):
            problem = self.problems.get(index, "")
            path = self.root + key
            size_bytes = os.path.getsize(path) if not is_remote(path) and os.path.exists(path) else 0
            yield Entry(key, size_bytes, label, caption, problem=problem)


def _row_key(name: str, row: int) -> str:
    return f"{name}/{row:08d}"
