"""Writes the on-disk index of a source: each row and the place of its bytes, to be mapped by every process."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tcae_cli.errors import SourceError
from tcae_cli.runtime.files import make_folder, write_atomic

INDEX_VERSION = 2
SUMMARY_FILE = "source.json"  # written last: an index without it does not exist

Item = TypeVar("Item")

_PROGRESS_EVERY = 1000
_IMAGE_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
}


class Entry(NamedTuple):
    """One image as a scan found it."""

    key: str  # path relative to the source, "/" between parts, with its suffix
    size_bytes: int
    label: int = -1  # -1: none
    caption: str = ""  # "": none
    tar: int = -1  # number of its tar; -1: a file of its own
    offset: int = -1  # of its bytes in that tar
    problem: str = ""  # why it cannot be read, as far as the scan knows; "": nothing


@dataclass(frozen=True)
class Listing:
    """All samples that a scan found, in row order."""

    uri: str
    root: str  # of keys and tar names: an absolute path or a URL, ending in "/"
    entries: Sequence[Entry]
    class_names: tuple[str, ...] = ()
    tar_names: tuple[str, ...] = ()


def ignore(_: int) -> None:
    """Do nothing on progress."""


def counted(items: Iterable[Item], on_progress: Callable[[int], None]) -> Iterator[Item]:
    """Yield the items; call `on_progress` now and then, and at the end, with their number so far."""
    number = 0
    for number, item in enumerate(items, start=1):
        if number % _PROGRESS_EVERY == 0:
            on_progress(number)
        yield item
    on_progress(number)


def is_image_name(name: str) -> bool:
    """Return whether a file of this name counts as an image."""
    return os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES


def image_suffixes() -> str:
    """Return the suffixes of images, for a message."""
    return ", ".join(sorted(_IMAGE_SUFFIXES))


def parse_label(text: str, where: str) -> int:
    """Return the class number in `text`; raises SourceError, naming `where`, if it is not a whole number from 0."""
    digits = text.strip()
    if not digits.isdecimal() or len(digits) > 18:  # int64
        raise SourceError(f"{where}: the label should be a whole number from 0, found {digits[:40]!r}; correct it")
    return int(digits)


def parse_text(data: bytes, where: str) -> str:
    """Return the text of a caption or list; raises SourceError, naming `where`, if it is not UTF-8."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError as error:
        raise SourceError(f"{where} is not UTF-8 text ({error.reason}); convert or remove it") from error
    if "\0" in text:
        raise SourceError(f"{where} is not UTF-8 text (it holds zero bytes); convert or remove it")
    return text


def parse_metadata(data: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object; raises SourceError, naming `where`, if `data` is anything else."""
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: not readable as JSON ({error}); correct or remove it") from error
    if not isinstance(metadata, dict):
        raise SourceError(f"{where}: should be a JSON object, found {type(metadata).__name__}; correct or remove it")
    return metadata


def caption_of(metadata: dict[str, Any]) -> str:
    """Return the caption in a sample's metadata, "" if there is none."""
    caption = metadata.get("caption", metadata.get("text"))
    return caption.strip() if isinstance(caption, str) else ""


def write_index(index_dir: Path, listing: Listing) -> None:
    """Write the index of a listing into a folder, over an existing one.

    Raises SourceError if a key appears twice: rows are known by their keys.
    """
    _refuse_repeated_keys(listing)
    make_folder(index_dir)
    entries = listing.entries
    _save_strings(index_dir, "keys", [os.fsencode(entry.key) for entry in entries])
    _save(index_dir, "labels", np.array([entry.label for entry in entries], np.int64))
    _save(index_dir, "sizes", np.array([entry.size_bytes for entry in entries], np.int64))
    _save(index_dir, "tars", np.array([entry.tar for entry in entries], np.int32))
    _save(index_dir, "offsets", np.array([entry.offset for entry in entries], np.int64))
    has_captions = any(entry.caption for entry in entries)
    if has_captions:
        _save_strings(index_dir, "captions", [entry.caption.encode(errors="replace") for entry in entries])
    has_problems = any(entry.problem for entry in entries)
    if has_problems:
        _save_strings(index_dir, "problems", [entry.problem.encode(errors="backslashreplace") for entry in entries])
    summary = {
        "index_version": INDEX_VERSION,
        "uri": listing.uri,
        "root": listing.root,
        "tar_names": listing.tar_names,
        "class_names": listing.class_names,
        "has_captions": has_captions,
        "has_problems": has_problems,
        "fingerprint": _fingerprint(entries),
    }
    write_atomic(index_dir / SUMMARY_FILE, json.dumps(summary, indent=1).encode())


def _refuse_repeated_keys(listing: Listing) -> None:
    seen: set[str] = set()
    for entry in listing.entries:
        if entry.key in seen:
            raise SourceError(f"{listing.uri}: {entry.key} appears twice; rows are known by their names, so keep one")
        seen.add(entry.key)


def _fingerprint(entries: Iterable[Entry]) -> str:
    """Return the hash of keys and sizes: the same wherever the source lies, different once a name or size changes."""
    digest = blake2b(digest_size=16)
    for entry in entries:
        digest.update(os.fsencode(entry.key) + b"\0%d %d\n" % (entry.size_bytes, entry.offset))
    return digest.hexdigest()


def _save_strings(index_dir: Path, name: str, strings: Sequence[bytes]) -> None:
    """Save strings as one blob and the n + 1 offsets into it."""
    ends = np.cumsum([0, *map(len, strings)], dtype=np.int64)
    _save(index_dir, f"{name}.ends", ends)
    _save(index_dir, f"{name}.blob", np.frombuffer(b"".join(strings), np.uint8))


def _save(index_dir: Path, name: str, array: np.ndarray) -> None:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(index_dir / f"{name}.npy", buffer.getvalue())
