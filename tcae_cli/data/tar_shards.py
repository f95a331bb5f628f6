"""Tar shards: indexed once by their headers, then read by position; nothing in them is ever extracted.

A sample's image, label and caption share a name, as in WebDataset: `a.jpg`, `a.cls`, `a.txt` or `a.json`. webdataset's
own reader is not used for local tars: it ends a damaged one quietly and cannot go on where it stopped.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tcae_cli.data.index import (
    Entry,
    Listing,
    caption_of,
    image_suffixes,
    is_image_name,
    parse_label,
    parse_metadata,
    parse_text,
)
from tcae_cli.errors import NotFoundError, SourceError, UsageError

_SIDECARS = (".cls", ".txt", ".json")
_END_BYTES = 1024  # a complete tar ends in two blocks of zeros at least


def scan(uri: str) -> Listing:
    """Every image in the tars of a pattern, by tar in the pattern's order, then by position.

    Raises NotFoundError if a tar is not there, SourceError if one is damaged or none holds an image.
    """
    paths = [Path(os.path.abspath(name)) for name in _expand(uri)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        of_them = f"; {len(missing)} of its {len(paths)} tars do not exist" if len(paths) > 1 else ""
        raise NotFoundError(f"{missing[0]} does not exist{of_them}; correct {uri}")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    entries = [entry for number, path in enumerate(paths) for entry in _scan_tar(path, root, number)]
    if not entries:
        raise SourceError(f"{uri} holds no images; images are members ending in {image_suffixes()}")
    return Listing(uri, root, entries, tar_paths=tuple(paths))


def read_member(path: Path, offset: int, size_bytes: int) -> bytes:
    """The bytes at a position of a tar; raises OSError if the tar no longer reaches that far."""
    with path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), size_bytes, offset)
    if len(data) < size_bytes:
        raise OSError(f"{path.name} is shorter than when it was indexed")
    return data


def _expand(uri: str) -> list[str]:
    if "{" not in uri or Path(uri).exists():
        return [uri]
    from webdataset.shardlists import expand_urls  # takes seconds to import: only where there is a pattern

    try:
        return list(expand_urls(uri))
    except ValueError as error:
        raise UsageError(f"{uri} is not a pattern of tars ({error}); write it as shards/{{000..127}}.tar") from error


def _scan_tar(path: Path, root: Path, number: int) -> Iterator[Entry]:
    with path.open("rb") as file:
        members = _members(path, file)
        sidecars = {
            member.name: os.pread(file.fileno(), member.size, member.offset_data)
            for member in members
            if member.name.endswith(_SIDECARS)
        }
    prefix = path.relative_to(root).as_posix()
    for member in members:
        if is_image_name(member.name):
            label, caption = _label_and_caption(member.name, sidecars, path)
            key = f"{prefix}/{member.name.removeprefix('./')}"
            yield Entry(key, member.size, label, caption, number, member.offset_data)


def _members(path: Path, file: BinaryIO) -> list[tarfile.TarInfo]:
    """Headers of the regular members; raises SourceError unless the tar is whole."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members = [member for member in tar if member.isreg() and not os.path.basename(member.name).startswith(".")]
            end = tar.offset
    except tarfile.TarError as error:
        raise SourceError(f"{path} is damaged or not an uncompressed tar ({error}); copy it again") from error
    # tarfile stops without a word at a damaged header, so what follows must be the end, and nothing but it.
    if not _only_zeros(file, end):
        raise SourceError(f"{path} is damaged: its list of members breaks off at byte {end}; copy it again")
    return members


def _only_zeros(file: BinaryIO, start: int) -> bool:
    """Whether the end of a tar, from `start`, is there and is all zeros."""
    if file.seek(0, os.SEEK_END) - start < _END_BYTES:
        return False
    file.seek(start)
    return not any(block.strip(b"\0") for block in iter(lambda: file.read(1 << 20), b""))


def _label_and_caption(name: str, sidecars: dict[str, bytes], tar_path: Path) -> tuple[int, str]:
    """What lies beside an image, under its name without the suffix or, as WebDataset has it, up to the first dot."""
    parent, base = os.path.split(name)
    found: dict[str, tuple[bytes, str]] = {}
    for stem in (os.path.join(parent, base.split(".")[0]), os.path.splitext(name)[0]):
        for suffix in _SIDECARS:
            if stem + suffix in sidecars:
                found[suffix] = (sidecars[stem + suffix], f"{tar_path}: {stem}{suffix}")
    label, caption = -1, ""
    if ".cls" in found:
        data, where = found[".cls"]
        label = parse_label(data.decode(errors="replace"), where)
    if ".json" in found:
        caption = caption_of(parse_metadata(*found[".json"]))
    if ".txt" in found:
        caption = parse_text(*found[".txt"])
    return label, caption
