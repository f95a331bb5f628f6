"""Writes the on-disk index of a source: each row and the place of its bytes, to be mapped by every process."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from tcae_cli.errors import SourceError
from tcae_cli.reports.described import EARLIER
from tcae_cli.runtime.checksums import crc32c_of_json
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.runtime.folder import Folder
from tcae_cli.sources.index_column import SUMMARY_FILE, checksums_of, damaged
from tcae_cli.sources.listing import Container, Listing

_VERSION = 3
_VERSION_OF_TARS_ONLY = 2  # its containers are tars, and it names no kind
IMAGE_SIZES = "heights", "widths"  # columns that are added to an index once images have been measured


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
    checksums: dict[str, list[int]]  # of each column's blocks


_SUMMARY = TypeAdapter(Summary)
# What earlier versions did not write.
_LATER: dict[str, Any] = {"remarks": (), "disagreements": (), "labels_from": {}, "captions_from": {}, "checksums": {}}


def write_index(index_dir: Path, listing: Listing) -> None:
    """Write the index of a listing into a folder, over an existing one.

    Raises SourceError if a key appears twice: rows are known by their keys.
    """
    _refuse_repeated_keys(listing)
    make_folder(index_dir)
    entries = listing.entries
    columns = {
        **_strings("keys", [os.fsencode(entry.key) for entry in entries]),
        "labels": np.array([entry.label for entry in entries], np.int64),
        "sizes": np.array([entry.size_bytes for entry in entries], np.int64),
        "tars": np.array([entry.container for entry in entries], np.int32),  # as version 2 named them
        "offsets": np.array([entry.offset for entry in entries], np.int64),
    }
    has_captions = any(entry.caption for entry in entries)
    if has_captions:
        columns |= _strings("captions", [entry.caption.encode(errors="replace") for entry in entries])
    has_problems = any(entry.problem for entry in entries)
    if has_problems:
        columns |= _strings("problems", [entry.problem.encode(errors="backslashreplace") for entry in entries])
    checksums = {name: _save(index_dir, name, column) for name, column in columns.items()}
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
        "checksums": checksums,
    }
    _write_summary(index_dir, summary)


def write_image_sizes(index_dir: Path, image_sizes: np.ndarray) -> None:
    """Add the height and width of every image to an index; image_sizes: [n, 2], int32."""
    summary = json.loads((index_dir / SUMMARY_FILE).read_bytes())
    for name, column in zip(IMAGE_SIZES, image_sizes.T, strict=True):
        summary["checksums"][name] = _save(index_dir, name, np.ascontiguousarray(column, np.int32))
    _write_summary(index_dir, summary)


def _write_summary(index_dir: Path, summary: dict[str, Any]) -> None:
    content = {name: value for name, value in summary.items() if name != "crc32c"}
    content["crc32c"] = crc32c_of_json(content)
    write_atomic(index_dir / SUMMARY_FILE, json.dumps(content, indent=1).encode())


def read_summary(index_dir: Path) -> Summary:
    """Return what an index says of its source as a whole.

    Raises SourceError if there is no index in the folder, or one that is damaged or of a version that is not known.
    """
    path = index_dir / SUMMARY_FILE
    try:
        summary: dict[str, Any] = json.loads(path.read_bytes())
        version, crc = summary["index_version"], summary.pop("crc32c", None)
        if version in (_VERSION, _VERSION_OF_TARS_ONLY) and crc not in (None, crc32c_of_json(summary)):
            raise damaged(path, "it does not match its CRC-32C")
        summary = _LATER | summary
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


def fetch_index(folder: Folder, name: str, scratch: Path) -> Path | None:
    """Return a local folder with the index in a folder of this name, copied below `scratch` if it is remote.

    Returns None if there is none, or if it was not written to its end.
    """
    (summary,) = folder.read_many([f"{name}/{SUMMARY_FILE}"])
    return None if summary is None else folder.fetch(name, _file_names(summary), scratch)


def _file_names(summary: bytes) -> list[str]:
    """Return the names of the files of an index with this summary; that of the summary alone if it is damaged."""
    try:
        fields = json.loads(summary)
        measured = [name for name in IMAGE_SIZES if name in fields.get("checksums", {})]
        strings = ["keys", *(name for name in ("captions", "problems") if fields[f"has_{name}"])]
    except (ValueError, LookupError, TypeError, RecursionError):
        return [SUMMARY_FILE]
    columns = [f"{name}.{part}" for name in strings for part in ("ends", "blob")]
    return [SUMMARY_FILE, *(f"{name}.npy" for name in (*columns, "labels", "sizes", "tars", "offsets", *measured))]


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


def _strings(name: str, strings: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Return strings as one blob and the n + 1 offsets into it, by the names of their columns."""
    ends = np.cumsum([0, *map(len, strings)], dtype=np.int64)
    return {f"{name}.ends": ends, f"{name}.blob": np.frombuffer(b"".join(strings), np.uint8)}


def _save(index_dir: Path, name: str, column: np.ndarray) -> list[int]:
    """Save a column, and return the checksums of its file."""
    buffer = BytesIO()
    np.save(buffer, column, allow_pickle=False)
    write_atomic(index_dir / f"{name}.npy", buffer.getvalue())
    return checksums_of(buffer.getvalue())
