"""A folder of images: class folders give labels, sidecar files captions."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tcae_cli.data.index import (
    Entry,
    Listing,
    caption_of,
    image_suffixes,
    is_image_name,
    parse_metadata,
    parse_text,
)
from tcae_cli.errors import SourceError

METADATA_NAME = "metadata.jsonl"


class _File(NamedTuple):
    name: str  # relative to the folder scanned, "/" between parts
    size_bytes: int


def scan(uri: str) -> Listing:
    """Every image under a folder, by sorted relative path; hidden names are skipped, links to folders followed.

    The first folder of an image's path is its class; classes are numbered by sorted name, over those that hold images.
    An image directly in the folder has label -1. Raises SourceError if there is no image.
    """
    root = Path(os.path.abspath(uri))
    files = sorted(_walk(root, "", ()))
    images = [file for file in files if is_image_name(file.name)]
    if not images:
        raise SourceError(_no_images(uri, files))
    class_names = sorted({file.name.split("/")[0] for file in images if "/" in file.name})
    labels = {name: label for label, name in enumerate(class_names)}
    captions = _captions(root, [file.name for file in files])
    entries = [
        Entry(
            key=file.name,
            size_bytes=file.size_bytes,
            label=labels[file.name.split("/")[0]] if "/" in file.name else -1,
            caption=captions.get(os.path.splitext(file.name)[0]) or captions.get(file.name, ""),
        )
        for file in images
    ]
    return Listing(uri, root, entries, tuple(class_names))


def _walk(folder: Path, prefix: str, ancestors: tuple[tuple[int, int], ...]) -> Iterator[_File]:
    """Files below a folder, links to folders followed unless they lead back to one being walked."""
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
            yield _File(name, 0)  # leads nowhere: a row that fails when read, not one that is missing
        elif entry.is_file():
            yield _File(name, entry.stat().st_size)


def _captions(root: Path, names: list[str]) -> dict[str, str]:
    """Captions by image name (from metadata.jsonl) and by name without suffix (from .txt beside the image).

    The text beside an image is the one asked for first.
    """
    stems = {os.path.splitext(name)[0] for name in names if is_image_name(name)}
    captions: dict[str, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if os.path.basename(name) == METADATA_NAME:
            captions.update(_metadata_captions(root, name))
        elif suffix == ".txt" and stem in stems:
            captions[stem] = parse_text((root / name).read_bytes(), str(root / name))
    return captions


def _metadata_captions(root: Path, name: str) -> Iterator[tuple[str, str]]:
    """Image name and caption of each line of a metadata file, whose names are relative to its folder."""
    parent = PurePosixPath(name).parent
    for number, line in enumerate((root / name).read_bytes().splitlines(), start=1):
        if line.strip():
            metadata = parse_metadata(line, f"{root / name}, line {number}")
            yield str(parent / str(metadata.get("file_name", ""))), caption_of(metadata)


def _no_images(uri: str, files: list[_File]) -> str:
    if not files:
        return f"{uri} is empty; images are files ending in {image_suffixes()}"
    num_tars = sum(file.name.endswith(".tar") for file in files)
    if num_tars:
        return f"{uri} holds no images but {num_tars} .tar files; give them as a pattern, like {uri}/{{000..127}}.tar"
    counts = Counter(os.path.splitext(file.name)[1] or "no suffix" for file in files)
    found = ", ".join(f"{count} with {suffix}" for suffix, count in counts.most_common(3))
    return f"{uri} holds no images, only other files ({found}); images are files ending in {image_suffixes()}"
