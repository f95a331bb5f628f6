"""Collects the rows of tables as samples of a source, each with its key, label and caption."""

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from tcae_cli.errors import SourceError
from tcae_cli.sources.columns import number_labels, several_words
from tcae_cli.sources.listing import Container, Entry, Listing
from tcae_cli.sources.locations import location_of, name_in, refuse_mixed, root_of, size_bytes_of, without_query
from tcae_cli.sources.schema import Cells, Columns

NO_IMAGE = "the row has no image"

_DIFFERING = {  # what all files have to have in common, by its name in Columns, with the words for a message
    "image": "image column",
    "is_file_name": "type of image column",
    "label": "label column",
    "is_class_name": "type of label column",
    "class_names": "class names",
    "caption": "caption column",
}


class TableFile(NamedTuple):
    """A file of a table, as its scan found it."""

    container: Container
    columns: Columns
    cells: Cells
    sizes: Sequence[int] | None = None  # of the images, in bytes; None: not known
    problems: Mapping[int, str] = {}  # of rows that cannot be read, by row


@dataclass
class TableRows:
    """The rows of several files, all with the same columns."""

    uri: str
    root: str  # of the files' names
    files: list[TableFile] = field(default_factory=list)
    num_rows: int = 0

    def add(self, file: TableFile) -> None:
        """Add the rows of a file. Raises SourceError if its columns are not those of the files before it."""
        first = self.files[0] if self.files else file
        for name, words in _DIFFERING.items():
            if getattr(file.columns, name) != getattr(first.columns, name):
                raise SourceError(
                    f"{self.uri}: {self._shown(file)} and {self._shown(first)} differ in their {words}; encode them "
                    f"separately, or choose columns that both have with --image, --label and --caption"
                )
        self.files.append(file)
        self.num_rows += len(file.cells.paths)

    def listing(self, kind: str) -> Listing:
        """Return the listing of all rows, by file and row, of a kind in the registry.

        The key of a row is the path of its image, if it has one that is unique in its file and in none before it,
        otherwise the name of its file and its number there. Images that are files of their own have keys as in a list.
        Raises SourceError if there are no rows.
        """
        if not self.num_rows:
            raise SourceError(f"{self.uri} has no rows; give a table that holds images")
        columns = self.files[0].columns
        labels, class_names = self._number_labels()
        listing = Listing(
            uri=self.uri,
            root=self.root,
            entries=[],
            class_names=columns.class_names or class_names,
            containers=() if columns.is_file_name else tuple(file.container for file in self.files),
            kind=kind,
            image_column=columns.image,
            label_from=f"column {columns.label}",
            caption_from=f"column {columns.caption}",
            remarks=tuple(self._several_captions()),
        )
        if columns.is_file_name:
            return self._with_files(listing, labels)
        return replace(listing, entries=list(self._rows(labels)))

    def _number_labels(self) -> tuple[list[np.ndarray], tuple[str, ...]]:
        """Return the class numbers of each file's rows, and the names of classes where the labels are names."""
        if not self.files[0].columns.is_class_name:
            return [file.cells.labels for file in self.files], ()
        texts = sorted({text for file in self.files for text in file.cells.label_texts})
        numbers, class_names = number_labels(texts)
        number_of = dict(zip(texts, numbers, strict=True))
        labels = []
        for file in self.files:
            # The last is for rows without a label, whose place in the texts is -1.
            of_texts = np.array([*(number_of[text] for text in file.cells.label_texts), -1])
            labels.append(of_texts[file.cells.labels])
        return labels, class_names

    def _rows(self, labels: Sequence[np.ndarray]) -> Iterator[Entry]:
        """Yield the rows whose images lie in the files."""
        taken: set[str] = set()
        for number, (file, of_file) in enumerate(zip(self.files, labels, strict=True)):
            counts = Counter(file.cells.paths)
            sizes = [0] * len(of_file) if file.sizes is None else file.sizes
            cells = zip(file.cells.paths, sizes, of_file.tolist(), file.cells.captions, strict=True)
            for row, (path, size_bytes, label, caption) in enumerate(cells):
                is_key = path and counts[path] == 1 and path not in taken
                key = path if is_key else self._key(file, row)
                yield Entry(key, size_bytes, label, caption, number, row, file.problems.get(row, ""))
            taken |= counts.keys()

    def _with_files(self, listing: Listing, labels: Sequence[np.ndarray]) -> Listing:
        """Return the listing with the rows whose images are files of their own."""
        locations: list[list[str]] = []
        for file in self.files:
            folder = posixpath.join(self.root, posixpath.dirname(file.container.name), "")
            names = map(name_in, file.cells.paths)
            locations.append([location_of(folder, name) if name else "" for name in names])
        named = [location for of_file in locations for location in of_file if location]
        refuse_mixed(self.uri, named)
        root = root_of(self.root, named)
        entries = []
        for file, of_file, of_rows in zip(self.files, labels, locations, strict=True):
            cells = zip(of_rows, of_file.tolist(), file.cells.captions, strict=True)
            for row, (location, label, caption) in enumerate(cells):
                problem = file.problems.get(row, "" if location else NO_IMAGE)
                if problem:
                    entries.append(Entry(self._key(file, row), 0, label, caption, problem=problem))
                else:
                    entries.append(Entry(location[len(root) :], size_bytes_of(location), label, caption))
        return replace(listing, root=root, entries=entries)

    def _several_captions(self) -> Iterator[str]:
        """Yield a sentence on rows with several captions, if there are any."""
        found = [file for file in self.files if file.cells.several]
        if found:
            count = sum(len(file.cells.several) for file in found)
            words = several_words(f"column {found[0].columns.caption}")
            yield f"{self.uri}: {count:,} {words}; the first: {self._key(found[0], found[0].cells.several[0])}"

    def _key(self, file: TableFile, row: int) -> str:
        return f"{self._shown(file)}/{row:08d}"

    def _shown(self, file: TableFile) -> str:
        return without_query(self.root, file.container.name)
