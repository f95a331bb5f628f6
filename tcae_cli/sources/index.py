"""Writes the on-disk index of a source: each row and the place of its bytes, to be mapped by every process."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from tcae_cli.errors import SourceError
from tcae_cli.reports.described import EARLIER
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.sources.listing import Container, Listing

SUMMARY_FILE = "source.json"  # written last: an index without it does not exist

# What numpy raises for bytes that are not a .npy file.
_DAMAGED = (OSError, ValueError, TypeError, EOFError, OverflowError, SyntaxError, TokenError)

_VERSION = 3
_VERSION_OF_TARS_ONLY = 2  # its containers are tars, and it names no kind


class Summary(TypedDict):
    """The part of an index that is about its source as a whole, in SUMMARY_FILE."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    index_version: int
    uri: str
    root: str  # of keys and containers
    kind: str  # by its name in the registry of sources
    containers: tuple[Container, ...]
    image_column: str
    class_names: tuple[str, ...]
    has_captions: bool
    has_problems: bool
    passed_over: dict[str, int]
    remarks: tuple[str, ...]
    disagreements: tuple[str, ...]
    labels_from: dict[str, int]
    captions_from: dict[str, int]
    fingerprint: str


_SUMMARY = TypeAdapter(Summary)
# What earlier versions did not write.
_LATER: dict[str, Any] = {"remarks": (), "disagreements": (), "labels_from": {}, "captions_from": {}}


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
    _save(index_dir, "tars", np.array([entry.container for entry in entries], np.int32))  # as version 2 named them
    _save(index_dir, "offsets", np.array([entry.offset for entry in entries], np.int64))
    has_captions = any(entry.caption for entry in entries)
    if has_captions:
        _save_strings(index_dir, "captions", [entry.caption.encode(errors="replace") for entry in entries])
    has_problems = any(entry.problem for entry in entries)
    if has_problems:
        _save_strings(index_dir, "problems", [entry.problem.encode(errors="backslashreplace") for entry in entries])
    summary = {
        "index_version": _VERSION,
        "uri": listing.uri,
        "root": listing.root,
        "kind": listing.kind,
        "containers": listing.containers,
        "image_column": listing.image_column,
        "class_names": listing.class_names,
        "has_captions": has_captions,
        "has_problems": has_problems,
        "passed_over": dict(listing.passed_over),
        "remarks": listing.remarks,
        "disagreements": listing.disagreements,
        "labels_from": _places([entry.label_from or listing.label_from for entry in entries if entry.label >= 0]),
        "captions_from": _places([entry.caption_from or listing.caption_from for entry in entries if entry.caption]),
        "fingerprint": _fingerprint(listing),
    }
    write_atomic(index_dir / SUMMARY_FILE, json.dumps(summary, indent=1).encode())


def read_summary(index_dir: Path) -> Summary:
    """Return what an index says of its source as a whole.

    Raises SourceError if there is no index in the folder, or one that is damaged or of a version that is not known.
    """
    path = index_dir / SUMMARY_FILE
    try:
        summary: dict[str, Any] = _LATER | json.loads(path.read_bytes())
        version = summary["index_version"]
        if version == _VERSION_OF_TARS_ONLY:
            tars = summary.pop("tar_names")
            summary |= {"kind": "tar" if tars else "folder", "image_column": "", "passed_over": {}}
            summary["containers"] = [(name, "", ()) for name in tars]
        elif version != _VERSION:
            raise SourceError(f"{index_dir} was made by another version of tcae; remove it and open the source again")
        return _SUMMARY.validate_python(summary)
    except OSError as error:
        raise SourceError(
            f"{index_dir} holds no index of a source ({error.strerror}); open the source again"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def read_column(index_dir: Path, name: str, dtype: type[np.generic]) -> np.ndarray:
    """Map a column of an index, [n], into memory. Raises SourceError if it is missing or damaged."""
    path = index_dir / f"{name}.npy"
    try:
        column: np.ndarray = np.load(path, mmap_mode="r")
    except _DAMAGED as error:
        raise damaged(path, getattr(error, "strerror", None) or str(error)) from error
    if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype != dtype:
        raise damaged(path, f"it is not one column of {np.dtype(dtype)}")
    return column


def damaged(path: Path, reason: str) -> SourceError:
    """Return the error to raise for a file of an index that is not as it was written."""
    first_line = (reason.splitlines() or ["it breaks off"])[0]
    return SourceError(
        f"{path} is damaged ({first_line}); remove {path.with_name(SUMMARY_FILE)} and repeat, so that the source is "
        f"listed again"
    )


def _places(places: Sequence[str]) -> dict[str, int]:
    """Return how often each place occurs, the most frequent first."""
    return {place or EARLIER: count for place, count in Counter(places).most_common()}


def _refuse_repeated_keys(listing: Listing) -> None:
    seen: set[str] = set()
    for entry in listing.entries:
        if entry.key in seen:
            raise SourceError(f"{listing.uri}: {entry.key} appears twice; rows are known by their names, so keep one")
        seen.add(entry.key)


def _fingerprint(listing: Listing) -> str:
    """Return the hash of keys and sizes: the same wherever the source lies, different once a name or size changes."""
    digest = blake2b(digest_size=16)
    for entry in listing.entries:
        digest.update(os.fsencode(entry.key) + b"\0%d %d\n" % (entry.size_bytes, entry.offset))
    for container in listing.containers:
        for group in container.groups:
            digest.update(f"{group.num_rows} {group.stamp}\n".encode())
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
