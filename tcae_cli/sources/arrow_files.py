"""Lists and reads data sets that Hugging Face's datasets saved: Arrow streams, mapped into memory."""

import json
import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from tcae_cli.errors import FieldError, NotFoundError, SourceError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.arrow import SPLITS_NAME, STATE_NAME
from tcae_cli.sources.listing import Container, Group, Listing
from tcae_cli.sources.registry import Access, Located, Place
from tcae_cli.sources.schema import cells_in, choose_columns
from tcae_cli.sources.table_images import TableImages, unreadable
from tcae_cli.sources.table_rows import TableFile, TableRows


def list_saved(uri: str, fields: SampleFields, on_progress: Callable[[int], None]) -> Listing:
    """List the rows of a saved data set, as SavedDataset.scan does."""
    folder = _folder_of_split(uri, fields.split)
    root = f"{os.path.abspath(folder)}/"
    rows = TableRows(uri, root)
    for name in _names(folder):
        rows.add(_scan(root, name, fields))
        on_progress(rows.num_rows)
    return rows.listing("arrow")


class MappedReader:
    """Reads images of Arrow files, which stay mapped."""

    access: Access = "row"

    def __init__(self, located: Located) -> None:
        self._located = located
        self._images: dict[int, TableImages] = {}  # by the number of the file

    def read(self, place: Place) -> bytes:
        number = place.container
        container = self._located.containers[number]
        if number not in self._images:
            self._images[number] = self._map(container)
        return self._images[number].read(place.offset, self._located.folder, container.name)

    def _map(self, container: Container) -> TableImages:
        where = os.path.join(self._located.folder.uri, container.name)
        try:
            table = _read(where)
        except OSError as error:
            raise unreadable(where, error) from error
        column = self._located.image_column
        if column not in table.column_names or (Group(table.num_rows, ""),) != container.groups:
            raise SourceError(f"{where} has changed since it was indexed; put it back, or repeat the command")
        return TableImages(table[column])


def _folder_of_split(uri: str, split: str | None) -> str:
    """Return the folder of the data set: the one given, or that of a split below it."""
    if os.path.isfile(os.path.join(uri, STATE_NAME)):
        if split is not None:
            raise FieldError("split", f"--split {split}: {uri} is one data set without splits; omit it")
        return uri
    path = os.path.join(uri, SPLITS_NAME)
    splits = _json(path).get("splits")
    if not isinstance(splits, list) or not splits:
        raise SourceError(f"{path} lists no splits; save the data set again, or name the folder of a split")
    known = ", ".join(map(str, splits))
    if split is None and len(splits) > 1:
        raise UsageError(f"{uri} has the splits {known}; choose one with --split")
    if split is not None and split not in splits:
        raise NotFoundError(f"--split {split}: {uri} has no such split, only {known}")
    return os.path.join(uri, str(split or splits[0]))


def _names(folder: str) -> list[str]:
    """Return the files of a data set, in its order."""
    path = os.path.join(folder, STATE_NAME)
    state = _json(path)
    if state.get("_indices_data_files"):
        raise SourceError(
            f"{folder} is a selection of rows of other files, as early versions of datasets saved it; save it again "
            f"with a present version"
        )
    try:
        return [str(file["filename"]) for file in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise SourceError(f"{path} lists no files; save the data set again") from error


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except ValueError as error:
        raise SourceError(f"{path} is not readable as JSON ({error}); save the data set again") from error
    return found if isinstance(found, dict) else {}


def _scan(root: str, name: str, fields: SampleFields) -> TableFile:
    where = root + name
    table = _read(where)
    columns = choose_columns(table.schema, fields, where)
    container = Container(name, groups=(Group(table.num_rows, ""),))
    sizes = None if columns.is_file_name else _sizes(table[columns.image])
    return TableFile(container, columns, cells_in(table, columns, table.num_rows, where), sizes)


def _read(path: str) -> pa.Table:
    """Return the table of an Arrow file, mapped. Raises SourceError if it is damaged, OSError if it cannot be read."""
    try:
        with pa.memory_map(path) as file:
            table = pa.ipc.open_stream(file).read_all()
        _refuse_bad_offsets(table)
        return table
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), path) from error
        reason = str(error).splitlines()[0].rstrip(".")
        raise SourceError(f"{path} is not an Arrow file, or is damaged ({reason}); copy it again") from error


def _refuse_bad_offsets(table: pa.Table) -> None:
    """Raise ArrowInvalid if a cell lies outside of the memory of its column: Arrow itself does not look."""
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):  # texts are decoded elsewhere, where the error says which text it is
            raise


def _sizes(images: pa.ChunkedArray) -> list[int]:
    """Return the bytes of each image, from the offsets of the column, without reading the images; 0 for none."""
    if types.is_struct(images.type):
        if images.type.get_field_index("bytes") < 0:
            return [0] * len(images)
        images = pc.struct_field(images, "bytes")
    if types.is_dictionary(images.type):
        chunks = [pc.take(pc.binary_length(each.dictionary), each.indices) for each in images.chunks]
        lengths = pa.chunked_array(chunks, pa.int64() if not chunks else chunks[0].type)
    elif types.is_null(images.type):
        return [0] * len(images)
    else:
        lengths = pc.binary_length(images)
    return pc.fill_null(lengths, 0).to_pylist()
