"""Reads the samples in one .npz, as ADM, SiT, REPA and MAR write them to be evaluated: arr_0, uint8, [n, h, w, 3].

Axes: n samples, h w pixels. Source: https://github.com/openai/guided-diffusion/tree/main/evaluations
"""

import math
import os
from collections.abc import Callable
from functools import cached_property
from typing import IO, BinaryIO, NamedTuple
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.folder import open_to_read
from tcae_cli.runtime.remote import is_remote, suffix_of
from tcae_cli.sources.files import shown_name, too_short
from tcae_cli.sources.listing import Container, Entry, Listing, counted, ignore
from tcae_cli.sources.locations import without_query
from tcae_cli.sources.registry import Access, Located, Place, Reader
from tcae_cli.sources.zip_reader import DAMAGED, contents_offset

_SAMPLES = "arr_0"  # as numpy calls what it is given first
_LABELS = "arr_1"  # and second
_STATISTICS = {"mu", "sigma"}
_EXAMPLE = "write it with numpy.savez(FILE, samples), uint8, [n, h, w, 3]"


class _Array(NamedTuple):
    shape: tuple[int, ...]
    offset: int  # of its first value in the .npz, in bytes

    @property
    def sample_bytes(self) -> int:
        return math.prod(self.shape[1:])


class SampleArray:
    """The samples in an .npz."""

    words = "samples in an .npz"
    fields: frozenset[str] = frozenset()

    def recognises(self, uri: str) -> bool:
        return suffix_of(uri) == ".npz" and (is_remote(uri) or os.path.isfile(uri))

    def reader(self, located: Located) -> Reader:
        return _Reader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List the samples in their order, with the labels in arr_1 if it has one whole number for each.

        Raises SourceError if there are no samples, or if they are compressed, so that they are not read by position.
        """
        folder, _, name = (uri if is_remote(uri) else os.path.abspath(uri)).rpartition("/")
        root = f"{folder}/"
        with open_to_read(root).open(name) as file:
            array = _find_samples(file, uri)
            labels, unused = _read_labels(file, uri, array.shape[0])
        shown = without_query(root, name)
        digits = len(str(len(labels) - 1))
        entries = [
            Entry(
                f"{shown}/{number:0{digits}d}",
                array.sample_bytes,
                label,
                container=0,
                offset=array.offset + number * array.sample_bytes,
            )
            for number, label in counted(enumerate(labels), on_progress)
        ]
        remarks = (f"{uri}: of its arrays {', '.join(unused)} are not used",) if unused else ()
        return Listing(uri, root, entries, containers=(Container(name),), kind="npz", remarks=remarks)


class _Reader:
    """Reads samples one by one, and gives each as a PPM file, which is its pixels behind a line of text."""

    access: Access = "row"

    def __init__(self, located: Located) -> None:
        self._located = located

    def read(self, place: Place) -> bytes:
        _, height, width, _ = self._array.shape
        if place.size_bytes != self._array.sample_bytes:
            raise ImageError("read", f"{shown_name(self._located, place)} has changed since it was indexed")
        name = self._located.containers[place.container].name
        pixels = self._located.folder.read_range(name, place.offset, place.size_bytes)
        if len(pixels) < place.size_bytes:
            raise too_short(self._located, place)
        return b"P6 %d %d 255\n" % (width, height) + pixels

    @cached_property
    def _array(self) -> _Array:
        (container,) = self._located.containers
        with self._located.folder.open(container.name) as file:
            return _find_samples(file, without_query(self._located.folder.uri, container.name))


def _find_samples(file: BinaryIO, where: str) -> _Array:
    """Return the array of samples in an open .npz. Raises SourceError if there is none that is read by position."""
    size_bytes = file.seek(0, os.SEEK_END)
    try:
        with ZipFile(file) as archive:
            arrays = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            if _SAMPLES not in arrays:
                hint = "; its statistics are for --reference" if arrays.keys() >= _STATISTICS else ""
                found = ", ".join(arrays) or "none"
                raise SourceError(f"{where} has no array {_SAMPLES} of samples, only {found}{hint}; {_EXAMPLE}")
            member = arrays[_SAMPLES]
            if member.compress_type != ZIP_STORED:
                raise SourceError(f"{where}: {_SAMPLES} is compressed, and samples are read by position; {_EXAMPLE}")
            with archive.open(member) as contents:
                shape, is_fortran, dtype = _read_header(contents)
                header_bytes = contents.tell()
        offset = contents_offset(file, member.header_offset) + header_bytes
    except DAMAGED as error:
        raise SourceError(f"{where} is not an .npz, or is damaged ({error}); copy it again") from error
    if dtype != np.uint8 or is_fortran or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise SourceError(f"{where}: {_SAMPLES} is {dtype}, {list(shape)}, and no array of samples; {_EXAMPLE}")
    array = _Array(shape, offset)
    if offset + shape[0] * array.sample_bytes > size_bytes:
        raise SourceError(f"{where} is shorter than its {shape[0]:,} samples; copy it again")
    return array


def _read_labels(file: BinaryIO, where: str, num_samples: int) -> tuple[list[int], list[str]]:
    """Return the label of each sample, -1 where there is none, and the names of the arrays that are not used."""
    try:
        with ZipFile(file) as archive:
            others = [name.removesuffix(".npy") for name in archive.namelist()]
            others.remove(_SAMPLES)
            if _LABELS in others:
                with archive.open(f"{_LABELS}.npy") as contents:
                    shape, _, dtype = _read_header(contents)
                    if shape == (num_samples,) and dtype.kind in "iu":
                        others.remove(_LABELS)
                        data = contents.read(num_samples * dtype.itemsize)
                        labels = np.ndarray(shape, dtype, data).astype(np.int64)
                        return np.maximum(labels, -1).tolist(), others
    except (*DAMAGED, TypeError) as error:
        raise SourceError(f"{where}: its array {_LABELS} is damaged ({error}); copy it again") from error
    return [-1] * num_samples, others


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape of a .npy, whether it is in Fortran's order, and its type. Raises ValueError."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype] = read(file)
    return header
