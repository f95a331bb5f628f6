"""Lists the samples of a folder of images: labels and captions come from files beside them and from class folders."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tcae_cli.errors import NotFoundError, SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.folder import Folder, open_to_read
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.class_folders import ClassFolders, described
from tcae_cli.sources.dataset_json import DATASET_JSON
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import (
    PASSED_OVER,
    Entry,
    Listing,
    count_suffixes,
    counted,
    ignore,
    image_suffixes,
    is_image_name,
    system_folder_in,
)
from tcae_cli.sources.metadata_choice import Descriptions, descriptions_for
from tcae_cli.sources.metadata_files import DescribedImages, Texts, is_metadata_name
from tcae_cli.sources.metadata_sidecars import Sidecars, is_wanted, state_sidecar, suffix_of_sidecar
from tcae_cli.sources.parquet import ParquetFiles, is_parquet_name, list_files
from tcae_cli.sources.patterns import FoundFiles, expand_pattern, glob_matches
from tcae_cli.sources.registry import Located, Reader, refuse_other_fields
from tcae_cli.sources.spelling import BySpelling
from tcae_cli.sources.tar import is_tar_name, list_tars

_MOST_JSON_BYTES = 1 << 20  # of one beside an image: larger ones hold other things than a label and a caption


class File(NamedTuple):
    """A file as a scan found it."""

    name: str  # relative to the folder scanned, "/" between parts
    size_bytes: int


class ImageFolder:
    """A folder of images, or those of its images that a glob names; where it holds none, a folder of tars or Parquet.

    It is local, or below a URL that can be listed.
    """

    words = "a folder of images"
    fields = frozenset({"image", "label", "caption"})  # a member of tars; columns of tables and of metadata files

    def recognises(self, uri: str) -> bool:
        matches = glob_matches(uri)
        return is_remote(uri) or os.path.isdir(uri) or (bool(matches) and all(map(is_image_name, matches)))

    def reader(self, located: Located) -> Reader:
        return FileReader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List every image under a folder, by sorted relative path; hidden names are skipped, folder links followed.

        Keys of a glob are relative to the folder before its first wildcard.
        Labels and captions are those of sidecars and metadata files. Without such labels, the first folder of an
        image's path is its class; classes are numbered by sorted name, over those that hold images, and an image
        directly in the folder has label -1. Tars are listed by sorted name, as TarShards lists them, and so are Parquet
        files.
        Raises SourceError if there is no image, NotFoundError if a remote folder holds nothing at all.
        """
        chosen = _images_of_glob(uri)
        root = chosen.root if chosen else (uri if is_remote(uri) else os.path.abspath(uri)).rstrip("/") + "/"
        folder = open_to_read(root)
        found = _find(folder, uri) if is_remote(root) else _walk(Path(root), "", ())
        files = sorted(counted(found, on_progress))
        if chosen:
            names = set(chosen.names)
            files = [file for file in files if file.name in names or not is_image_name(file.name)]
        of_users = [file for file in files if not system_folder_in(file.name)]
        images = [file for file in of_users if is_image_name(file.name)]
        tars = [] if images else [file.name for file in of_users if is_tar_name(file.name)]
        if tars:
            refuse_other_fields(uri, "a folder of tars", fields, frozenset({"image", "label", "caption"}))
            return _with_others(list_tars(uri, FoundFiles(root, tars), fields, on_progress), of_users, tars)
        tables = [] if images else [file.name for file in of_users if is_parquet_name(file.name)]
        if tables:
            refuse_other_fields(uri, "a folder of Parquet files", fields, ParquetFiles.fields)
            return _with_others(list_files(uri, FoundFiles(root, tables), fields, on_progress), of_users, tables)
        if not images:
            raise SourceError(_no_images(uri, of_users))
        return list_images(uri, root, folder, files, fields)


def _images_of_glob(uri: str) -> FoundFiles | None:
    """Return the images that a glob names; None for a folder."""
    is_glob = "*" in uri and is_image_name(uri) if is_remote(uri) else not os.path.isdir(uri)
    return expand_pattern(uri) if is_glob else None


def list_images(uri: str, root: str, folder: Texts, files: Sequence[File], fields: SampleFields) -> Listing:
    """List the images among the files of a folder or an archive, with the labels and captions that others state.

    Raises FieldError for a field that images in folders do not have and for labels and captions that do not exist, and
    SourceError for a metadata file that cannot be used.
    """
    refuse_other_fields(uri, ImageFolder.words, fields, frozenset({"label", "caption"}))
    descriptions = descriptions_for(fields)
    set_aside = [Entry(*file) for file in files if system_folder_in(file.name) and is_image_name(file.name)]
    if set_aside:
        descriptions.lose(PASSED_OVER, set_aside[0].key, len(set_aside))
    files = [file for file in files if not system_folder_in(file.name)]
    images = [file for file in files if is_image_name(file.name)]
    names = [file.name for file in files]
    sidecars, problems = _state_sidecars(folder, images, files, descriptions)
    if any(map(is_metadata_name, names)):
        rows: dict[str, Sequence[int]] = {file.name: (row,) for row, file in enumerate(images)}
        DescribedImages(BySpelling(rows), descriptions, folder.read, f"{folder.uri.rstrip('/')}/").state_files(names)
    parents = [file.name.partition("/")[0] if "/" in file.name else "" for file in images]
    folders = ClassFolders(parents, are_expected=True, has_dataset_json=DATASET_JSON in names, failed=problems.keys())
    entries = [Entry(*file, problem=problems.get(row, "")) for row, file in enumerate(images)]
    others = (name for name in names if not (is_image_name(name) or is_metadata_name(name) or name in sidecars))
    listing = Listing(uri, root, entries, passed_over=count_suffixes(others), set_aside=set_aside)
    return described(listing, descriptions, folders)


def _state_sidecars(
    folder: Texts, images: Sequence[File], files: Sequence[File], descriptions: Descriptions
) -> tuple[Collection[str], dict[int, str]]:
    """State what the sidecars of images say; return their names, and by row the reason why one cannot be used."""
    beside = Sidecars(file.name for file in files)
    too_large = {file.name for file in files if file.size_bytes > _MOST_JSON_BYTES}
    rows_of: dict[str, list[int]] = {}  # by name
    for row, image in enumerate(images):
        for name in beside.beside(image.name):
            rows_of.setdefault(name, []).append(row)
    wanted = []
    for name in rows_of:
        if name in too_large and suffix_of_sidecar(name) == ".json":
            descriptions.lose(".json beside images are larger than 1 MiB and were not read", name)
        elif is_wanted(suffix_of_sidecar(name), descriptions):
            wanted.append(name)
    problems: dict[int, str] = {}
    contents = folder.in_order(partial(_read_or_error, folder), wanted)
    for name, data in zip(wanted, contents, strict=True):
        where = f"{folder.uri.rstrip('/')}/{name}"
        rows = rows_of[name]
        try:
            if isinstance(data, OSError):
                raise SourceError(f"{where} cannot be read ({data.strerror}); make it readable or remove it")
            state_sidecar(descriptions, suffix_of_sidecar(name), data, rows, where)
        except SourceError as error:
            problems |= dict.fromkeys(rows, str(error))
    return rows_of.keys(), problems


def _read_or_error(folder: Texts, name: str) -> bytes | OSError:
    try:
        return folder.read(name)
    except OSError as error:
        return error


def _with_others(listing: Listing, files: list[File], used: list[str]) -> Listing:
    """Return a listing that counts the files of the folder that it does not use among those passed over."""
    is_used = set(used)
    others = count_suffixes(file.name for file in files if file.name not in is_used)
    return replace(listing, passed_over=dict((Counter(listing.passed_over) + Counter(others)).most_common()))


def _walk(folder: Path, prefix: str, ancestors: tuple[tuple[int, int], ...]) -> Iterator[File]:
    """Yield the files below a folder; links to folders are followed unless they lead back to one being walked."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        return
    for entry in list(os.scandir(folder)):
        if entry.name.startswith("."):
            continue
        name = prefix + entry.name
        is_link = entry.is_symlink()
        if os.path.isdir(entry.path) if is_link else entry.is_dir():
            yield from _walk(folder / entry.name, f"{name}/", (*ancestors, identity))
        elif is_link and not os.path.exists(entry.path):
            yield File(name, 0)  # a broken link: a row that fails when read, not one that is missing
        elif entry.is_file():
            yield File(name, entry.stat().st_size)


def _find(folder: Folder, uri: str) -> Iterator[File]:
    """Yield the files below a remote folder. Raises NotFoundError if there are none: such a folder does not exist."""
    if uri.startswith(("http://", "https://")):
        raise SourceError(
            f"{uri} is a folder, and folders cannot be listed over http; "
            f"give its tars or Parquet files as a pattern, or an image list ending in .txt, .csv, .tsv or .jsonl"
        )
    is_empty = True
    for name, size_bytes in folder.sizes().items():
        is_empty = False
        if not any(part.startswith(".") for part in name.split("/")):
            yield File(name, size_bytes)
    if is_empty:
        raise NotFoundError(
            f"{uri} does not exist, or holds nothing; give a folder that holds images, tars or Parquet files"
        )


def _no_images(uri: str, files: list[File]) -> str:
    """Return the message for a folder without images, which names the files that it holds instead."""
    if not files:
        return f"{uri} is empty; images are files ending in {image_suffixes()}"
    counts = count_suffixes(file.name for file in files)
    found = ", ".join(f"{count} with {suffix}" for suffix, count in list(counts.items())[:3])
    advice = f"images are files ending in {image_suffixes()}"
    if ".zip" in counts:
        advice = f"for the images in its zips, give {uri.rstrip('/')}/*.zip"
    return f"{uri} holds no images, only other files ({found}); {advice}"
