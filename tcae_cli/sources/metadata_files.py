"""Reads the files that describe many images: metadata.csv, metadata.jsonl, metadata.parquet and dataset.json.

Sources: https://huggingface.co/docs/datasets/image_dataset#imagefolder, and the dataset_tool.py of StyleGAN and EDM2.
"""

import itertools
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tcae_cli.errors import SourceError
from tcae_cli.sources.columns import IMAGE_NAMES, usual
from tcae_cli.sources.dataset_json import DATASET_JSON, read_dataset_json
from tcae_cli.sources.metadata_choice import METADATA_FILES, Descriptions, Origin
from tcae_cli.sources.records import Record, Records, read_records
from tcae_cli.sources.spelling import BySpelling

Item = TypeVar("Item")
Result = TypeVar("Result")

_IMAGE = "file_name"  # the column that names the image, where a table has it


class Texts(Protocol):
    """The files of a folder or an archive, of which the small ones are read."""

    uri: str

    def read(self, name: str) -> bytes:
        """Return all bytes of a file. Raises OSError."""

    def in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield function(item) of each item, in order."""


def is_metadata_name(name: str) -> bool:
    """Return whether a file of this name describes images in its folder."""
    return posixpath.basename(name) in (*METADATA_FILES, DATASET_JSON)


@dataclass(frozen=True)
class DescribedImages:
    """The images that metadata files beside them may name."""

    rows: BySpelling[Sequence[int]]  # by name
    descriptions: Descriptions
    read: Callable[[str], bytes]  # the bytes of a file, by name
    prefix: str  # of names, in messages

    def state_files(self, names: Iterable[str]) -> None:
        """State what the metadata files among names say. Raises SourceError for a file that cannot be used."""
        labels, captions = self.descriptions.labels, self.descriptions.captions
        for name in filter(is_metadata_name, names):
            place = posixpath.basename(name)
            if place == DATASET_JSON and labels.takes(place):
                self._state_dataset_json(name)
            elif place != DATASET_JSON and (labels.takes(place) or captions.takes(place)):
                self._state_table(name)

    def _state_dataset_json(self, name: str) -> None:
        where = self.prefix + name
        try:
            found = read_dataset_json(self.read(name), where)
        except SourceError as error:  # of some other tool, perhaps
            self.descriptions.remarks.append(f"{error}; until then it is not used")
            return
        if found.remark:
            self.descriptions.remarks.append(found.remark)
        strays = []
        for image, label in found.labels.items():
            rows = self._rows_of(name, image)
            self.descriptions.labels.state(Origin(DATASET_JSON), rows, label)
            if not rows:
                strays.append(image)
        if strays:
            self.descriptions.remarks.append(
                f"{where}: {len(strays):,} of {len(found.labels):,} labels name no image here, the first of them "
                f"{strays[0]}; names are relative to the folder of this file"
            )

    def _state_table(self, name: str) -> None:
        where = self.prefix + name
        suffix = posixpath.splitext(name)[1]
        data = self.read(name)
        table = _parquet_records(data, where) if suffix == ".parquet" else read_records(data, suffix, where)
        self.descriptions.see_columns(table.columns)
        column = _image_column(table.columns)
        if column is not None:
            self._state_records(name, column, table.records)
        elif table.columns:
            self.descriptions.remarks.append(
                f"{where} is not used: it has no column {_IMAGE}, nor another one that must be the name of the image, "
                f"only {', '.join(table.columns)}"
            )

    def _state_records(self, name: str, column: str, records: Iterator[Record]) -> None:
        where = self.prefix + name
        num_lines = 0
        num_stated = 0
        strays = []
        for line, cells in records:
            num_lines += 1
            rows = self._rows_of(name, str(cells.get(column) or ""))
            if rows:
                place = posixpath.basename(name)
                num_stated += self.descriptions.state_cells(place, rows, cells, f"{where}, line {line}")
            else:
                strays.append(line)
        if strays:
            self.descriptions.remarks.append(
                f"{where}: {len(strays):,} of {num_lines:,} lines name no image here, the first in line {strays[0]}; "
                f"{column} is the path of an image, relative to the folder of this file"
            )
        elif num_lines and not num_stated:
            self.descriptions.remarks.append(
                f"{where} is not used: none of its {num_lines:,} lines has a label or a caption in a column that is "
                f"known to hold them; name one with --label or --caption"
            )

    def _rows_of(self, file: str, image: str) -> Sequence[int]:
        """Return the rows of the images that a metadata file calls so."""
        name = posixpath.normpath(posixpath.join(posixpath.dirname(file), image.strip()))
        return self.rows.get(name) or ()


def _parquet_records(data: bytes, where: str) -> Records:
    """Return the table in the bytes of a Parquet file. Raises SourceError, naming `where`, if it cannot be read."""
    import pyarrow as pa  # here, since other sources need no pyarrow
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"{where} is not readable as Parquet ({reason}); write it again, or remove it") from error
    rows = (row for batch in table.to_batches() for row in batch.to_pylist())
    return Records(table.column_names, itertools.starmap(Record, enumerate(rows, start=1)))


def _image_column(columns: Sequence[str]) -> str | None:
    """Return the column that names the images, None if there is none, or several that might."""
    usual_ones = usual(columns, IMAGE_NAMES)
    if _IMAGE in columns:
        return _IMAGE
    return usual_ones[0] if len(usual_ones) == 1 else None
