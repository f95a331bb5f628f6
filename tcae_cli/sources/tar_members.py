"""Reads the list of members of one tar, as far as it is whole, front to back; nothing is ever extracted."""

import os
import tarfile
from collections.abc import Callable
from typing import BinaryIO, NamedTuple, cast

from tcae_cli.sources.compressed import Decompressed
from tcae_cli.sources.listing import is_image_name
from tcae_cli.sources.metadata_files import is_metadata_name
from tcae_cli.sources.metadata_sidecars import SIDECAR_SUFFIXES

_SIDECAR_MAX_BYTES = 16 << 20
_MOST_BYTES = 1 << 63
_END_BYTES = 1024  # a complete tar ends in two blocks of zeros at least
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """One file in a tar."""

    name: str  # without "./" before it
    size_bytes: int
    offset: int
    problem: str = ""  # why it cannot be read; "": nothing
    text: bytes = b""  # its contents, of files of labels, captions and metadata


class Loss(NamedTuple):
    """The place where the list of members breaks off."""

    offset: int
    problem: str


def read_members(
    file: BinaryIO | Decompressed, tar: str, on_image: Callable[[], None]
) -> tuple[list[Member], Loss | None]:
    """Return the files in a tar that are not hidden, by position, and the loss after them, if there is one.

    A last file that is cut short has a problem; if it is an image, its row stands for the loss.
    on_image: called for each image as it is found.
    """
    start = file.read(8)
    file.seek(0)
    members, end = _walk(file, tar, on_image)
    ends_in_zeros = _only_zeros_follow(file, end)
    num_bytes = file.seek(0, os.SEEK_END)
    damage = file.problem if isinstance(file, Decompressed) else ""
    if ends_in_zeros and not damage:
        return members, None
    if members and members[-1].offset + members[-1].size_bytes > num_bytes:
        last = members[-1]
        if not last.problem:
            members[-1] = _cut_short(last, tar, num_bytes)
        if is_image_name(last.name):
            return members, None
    for magic, name in _COMPRESSIONS.items():
        if start.startswith(magic):
            return [], Loss(0, f"the tar is compressed with {name}, and images are read by position; unpack it")
    lost_from = min(end, num_bytes)
    where = f"at byte {lost_from}"
    if damage:
        where = f"at byte {lost_from} of its contents, which cannot be decompressed beyond byte {num_bytes} ({damage})"
    return members, Loss(lost_from, f"the tar is damaged {where}: what follows is lost; copy it again")


def _walk(file: BinaryIO | Decompressed, tar_name: str, on_image: Callable[[], None]) -> tuple[list[Member], int]:
    """Return the members, and the byte at which their list ends or breaks off."""
    members: list[Member] = []
    end = 0
    try:
        with tarfile.open(fileobj=cast(BinaryIO, file), mode="r:", encoding="utf-8") as tar:
            # A damaged size can lead back, and so round for ever, or further than any file reaches.
            while (header := tar.next()) is not None and end < tar.offset < _MOST_BYTES:
                end = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # or the headers of a large tar fill the memory
                is_link = (header.issym() or header.islnk()) and is_image_name(header.name)
                is_hidden = os.path.basename(header.name).startswith(".")
                if is_hidden or not (header.isreg() or is_link):
                    continue
                members.append(_member(file, header, tar_name))
                if is_image_name(header.name):
                    on_image()
    except (tarfile.TarError, ValueError):  # ValueError: a number in an extended header that is not one
        pass  # the byte at which the list ended says enough
    return members, end


def _only_zeros_follow(file: BinaryIO | Decompressed, end: int) -> bool:
    """Return whether a tar ends where the list of its members does: tarfile stops silently at a damaged header too."""
    if file.tell() > end + tarfile.BLOCKSIZE:
        return False  # an extended header was read there, and what it belongs to could not be
    file.seek(end)
    num_zeros = 0
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return False
        num_zeros += len(block)
    return num_zeros >= _END_BYTES


def _cut_short(member: Member, tar: str, num_bytes: int) -> Member:
    where = "this member" if is_image_name(member.name) else member.name
    return member._replace(problem=f"{tar} breaks off inside {where}, at byte {num_bytes}; copy the tar again")


def _member(file: BinaryIO | Decompressed, header: tarfile.TarInfo, tar: str) -> Member:
    name = header.name.removeprefix("./")
    offset = header.offset_data
    size_bytes = header.size
    if not header.isreg():
        return Member(name, 0, offset, "is a link inside a tar; make it with --dereference --hard-dereference")
    if header.issparse():
        return Member(name, size_bytes, offset, "is stored as a sparse file; make the tar without --sparse")
    is_table = is_metadata_name(name)
    if not is_table and not name.lower().endswith(SIDECAR_SUFFIXES):
        return Member(name, size_bytes, offset)
    if not is_table and size_bytes > _SIDECAR_MAX_BYTES:
        problem = f"{tar}: {name} is {size_bytes:,} bytes, too many for a label or caption; shorten it"
        return Member(name, size_bytes, offset, problem)
    file.seek(offset)
    return Member(name, size_bytes, offset, text=file.read(size_bytes))
