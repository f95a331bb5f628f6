"""Lists the samples of tar shards: tars are indexed once by their headers, then read by position.

`a.jpg`, `a.cls`, `a.txt` and `a.json` are one sample, as in WebDataset: image, label, caption and metadata. Its own
reader is not used: it ends a damaged tar without an error and cannot resume where it stopped. Compressed tars are
indexed and read front to back. Without labels, the folders inside the tars are classes.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import NamedTuple

from tcae_cli.errors import FieldError, SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.folder import Folder, common_root, open_to_read
from tcae_cli.sources.class_folders import ClassFolders, described
from tcae_cli.sources.compressed import Decompressed, FrontToBackReader, compression_of
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import Container, Entry, Listing, ignore, image_suffixes
from tcae_cli.sources.locations import without_query
from tcae_cli.sources.metadata_choice import descriptions_for
from tcae_cli.sources.patterns import FoundFiles, expand_pattern, names_files
from tcae_cli.sources.registry import Located, Reader
from tcae_cli.sources.tar_members import read_members
from tcae_cli.sources.tar_samples import TarRows, rows_of_tar

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")


class TarShards:
    """One tar, or the tars of a brace pattern or a glob, whose files may have any names that tars have."""

    words = "tar shards (.tar, .tar.gz, .tgz, .tar.zst)"
    fields = frozenset({"image", "label", "caption", "allow_missing"})

    def recognises(self, uri: str) -> bool:
        return names_files(uri, is_tar_name)

    def reader(self, located: Located) -> Reader:
        is_compressed = any(container.compression for container in located.containers)
        return FrontToBackReader(located) if is_compressed else FileReader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List every image in the tars of a pattern, by tar in the pattern's order, then by position.

        A damaged part of a tar, and a damaged sample, is a row with a problem.
        Raises NotFoundError if a tar does not exist, SourceError if one cannot be read or none holds an image.
        """
        return list_tars(uri, expand_pattern(uri, fields.allow_missing), fields, on_progress)


def is_tar_name(name: str) -> bool:
    """Return whether a file of this name is a tar."""
    return name.lower().endswith(_SUFFIXES)


def list_tars(uri: str, tars: FoundFiles, fields: SampleFields, on_progress: Callable[[int], None]) -> Listing:
    """List the images in tars, as TarShards.scan does; fields: as rows_of_tar takes them.

    Raises SourceError if a tar cannot be read, none holds an image, or a sample has several, and FieldError if there is
    nothing that the user named.
    """
    folder = open_to_read(tars.root)
    scan = partial(_scan_tar, folder, fields, _Count(on_progress).add)
    containers: list[Container] = []
    passed_over: Counter[str] = Counter()
    found: list[Entry] = []
    set_aside: list[Entry] = []
    image_names: list[str] = []
    descriptions = descriptions_for(fields)
    for name, tar in zip(tars.names, folder.in_order(scan, enumerate(tars.names)), strict=True):
        containers.append(Container(name, tar.compression))
        passed_over.update(tar.rows.passed_over)
        descriptions.add(tar.rows.descriptions, first_row=len(found))
        found += tar.rows.entries
        set_aside += tar.rows.set_aside
        image_names += tar.rows.names
    on_progress(len(found))
    if not found and fields.image and passed_over:
        others = ", ".join(f"{count} with {suffix}" for suffix, count in passed_over.most_common(3))
        raise FieldError(
            "image", f"--image {fields.image}: {uri} holds no images with that extension, only {others}; correct it"
        )
    if not found:
        raise SourceError(f"{uri} holds no images; images are members ending in {image_suffixes()}")
    listing = Listing(
        uri,
        tars.root,
        found,
        containers=tuple(containers),
        kind="tar",
        passed_over=dict(passed_over.most_common()),
        remarks=tars.remarks,
        set_aside=set_aside,
    )
    failed = {row for row, entry in enumerate(found) if entry.problem}
    folders = ClassFolders(_top_folders(image_names), are_expected=False, failed=failed)
    return described(listing, descriptions, folders)


def _top_folders(names: Sequence[str]) -> list[str]:
    """Return the first folder of each name below the folder that all names share, as a tar of a folder has it."""
    parents = {f"{os.path.dirname(name)}/" for name in names if name}
    shared = common_root(list(parents))
    folders = [name[len(shared) :].partition("/")[0] if "/" in name[len(shared) :] else "" for name in names]
    return [folder if folder.strip(".") else "" for folder in folders]


class _Count:
    """Counts the images that are found in several tars at once."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress
        self._number = 0
        self._lock = Lock()

    def add(self) -> None:
        with self._lock:
            self._number += 1
            self._on_progress(self._number)


class _Scanned(NamedTuple):
    compression: str
    rows: TarRows


def _scan_tar(folder: Folder, fields: SampleFields, on_image: Callable[[], None], tar: tuple[int, str]) -> _Scanned:
    """Return the rows of one tar, given as its number and name."""
    number, location = tar
    name = without_query(folder.uri, location)
    with folder.open(location) as file:
        compression = compression_of(file)
        members, loss = read_members(Decompressed(file, compression) if compression else file, name, on_image)
    return _Scanned(compression, rows_of_tar(name, number, members, loss, fields))
