"""Lists the samples of a folder of images: class folders give labels, sidecar files captions."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tcae_cli.errors import NotFoundError, SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.folder import Folder, open_to_read
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.columns import number_labels
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import Entry, Listing, count_suffixes, counted, ignore, image_suffixes, is_image_name
from tcae_cli.sources.metadata import parse_text
from tcae_cli.sources.metadata_files import Texts, is_metadata_name, read_metadata
from tcae_cli.sources.parquet import ParquetFiles, is_parquet_name, list_files
from tcae_cli.sources.patterns import FoundFiles
from tcae_cli.sources.registry import Located, Reader, refuse_other_fields
from tcae_cli.sources.tar import is_tar_name, list_tars


class File(NamedTuple):
    """A file as a scan found it."""

    name: str  # relative to the folder scanned, "/" between parts
    size_bytes: int


class _Text(NamedTuple):
    caption: str = ""
    problem: str = ""  # why it cannot be used; "": nothing


class ImageFolder:
    """A folder of images or, where it holds none, of tars or Parquet; local, or below a URL that can be listed."""

    words = "a folder of images"
    fields = frozenset({"image", "label", "caption"})  # a member of tars; columns of tables and of metadata files

    def recognises(self, uri: str) -> bool:
        return is_remote(uri) or os.path.isdir(uri)

    def reader(self, located: Located) -> Reader:
        return FileReader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List every image under a folder, by sorted relative path; hidden names are skipped, folder links followed.

        The first folder of an image's path is its class; classes are numbered by sorted name, over those that hold
        images. An image directly in the folder has label -1. Where there are no such folders, or `fields` names their
        column, labels are those of metadata files. Tars are listed by sorted name, as TarShards lists them, and so are
        Parquet files.
        Raises SourceError if there is no image, NotFoundError if a remote folder holds nothing at all.
        """
        root = (uri if is_remote(uri) else os.path.abspath(uri)).rstrip("/") + "/"
        folder = open_to_read(root)
        found = _find(folder, uri) if is_remote(root) else _walk(Path(root), "", ())
        files = sorted(counted(found, on_progress))
        images = [file for file in files if is_image_name(file.name)]
        tars = [] if images else [file.name for file in files if is_tar_name(file.name)]
        if tars:
            refuse_other_fields(uri, "a folder of tars", fields, frozenset({"image"}))
            return _with_others(list_tars(uri, FoundFiles(root, tars), fields.image, on_progress), files, tars)
        tables = [] if images else [file.name for file in files if is_parquet_name(file.name)]
        if tables:
            refuse_other_fields(uri, "a folder of Parquet files", fields, ParquetFiles.fields)
            return _with_others(list_files(uri, FoundFiles(root, tables), fields, on_progress), files, tables)
        if not images:
            raise SourceError(_no_images(uri, files))
        return list_images(uri, root, folder, files, fields)


def list_images(uri: str, root: str, folder: Texts, files: Sequence[File], fields: SampleFields) -> Listing:
    """List the images among the files of a folder or an archive, with the labels and captions that they have there.

    Raises FieldError for a field that images in folders do not have, and SourceError for labels that cannot be used.
    """
    refuse_other_fields(uri, ImageFolder.words, fields, frozenset({"label", "caption"}))
    images = [file for file in files if is_image_name(file.name)]
    names = [file.name for file in files]
    metadata = read_metadata(folder, names, fields, has_classes=any("/" in file.name for file in images))
    labels, class_names = _labels(images, metadata.labels)
    texts = _texts_beside(folder, names) if fields.caption is None else {}
    entries = []
    for (name, size_bytes), label in zip(images, labels, strict=True):
        text = texts.get(os.path.splitext(name)[0], _Text())
        caption = text.caption or metadata.captions.get(name, "")
        entries.append(Entry(name, size_bytes, label, caption, problem=text.problem))
    others = (name for name in names if not is_image_name(name) and not _belongs_to_images(name, texts))
    passed_over = count_suffixes(others)
    return Listing(uri, root, entries, class_names, passed_over=passed_over, remarks=tuple(metadata.remarks))


def _with_others(listing: Listing, files: list[File], used: list[str]) -> Listing:
    """Return a listing that counts the files of the folder that it does not use among those passed over."""
    is_used = set(used)
    others = count_suffixes(file.name for file in files if file.name not in is_used)
    return replace(listing, passed_over=dict((Counter(listing.passed_over) + Counter(others)).most_common()))


def _labels(images: list[File], given: dict[str, str]) -> tuple[list[int], tuple[str, ...]]:
    """Return the class number of each image and the names of classes: as given, else those of the first folders."""
    if given:
        return number_labels([given.get(file.name, "") for file in images])
    folders = [file.name.partition("/")[0] if "/" in file.name else "" for file in images]
    class_names = sorted(set(folders) - {""})
    numbers = {"": -1} | {name: number for number, name in enumerate(class_names)}
    return [numbers[name] for name in folders], tuple(class_names)


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


def _texts_beside(folder: Texts, names: list[str]) -> dict[str, _Text]:
    """Return the texts of the .txt beside images, by the name both have without their suffix."""
    stems = {os.path.splitext(name)[0] for name in names if is_image_name(name)}
    texts = [name for name in names if name.endswith(".txt") and name.removesuffix(".txt") in stems]
    found = folder.in_order(partial(_read_text, folder), texts)
    return {name.removesuffix(".txt"): text for name, text in zip(texts, found, strict=True)}


def _belongs_to_images(name: str, texts: dict[str, _Text]) -> bool:
    """Return whether a file holds the caption of an image, or of several."""
    return is_metadata_name(name) or (name.endswith(".txt") and name.removesuffix(".txt") in texts)


def _read_text(folder: Texts, name: str) -> _Text:
    """Return the caption in a text file, or why it cannot be read."""
    where = f"{folder.uri}/{name}"
    try:
        return _Text(caption=parse_text(folder.read(name), where))
    except SourceError as error:
        return _Text(problem=str(error))
    except OSError as error:
        return _Text(problem=f"{where} cannot be read ({error.strerror}); make it readable or remove it")


def _no_images(uri: str, files: list[File]) -> str:
    """Return the message for a folder without images, which names the files that it holds instead."""
    if not files:
        return f"{uri} is empty; images are files ending in {image_suffixes()}"
    counts = count_suffixes(file.name for file in files)
    found = ", ".join(f"{count} with {suffix}" for suffix, count in list(counts.items())[:3])
    return f"{uri} holds no images, only other files ({found}); images are files ending in {image_suffixes()}"
