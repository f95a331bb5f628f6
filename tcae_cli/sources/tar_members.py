"""Reads the list of members of one tar, as far as it is whole; nothing is ever extracted."""

import os
import tarfile
from typing import BinaryIO, NamedTuple

from tcae_cli.sources.listing import is_image_name

SIDECAR_SUFFIXES = (".cls", ".txt", ".json")
_SIDECAR_MAX_BYTES = 16 << 20
_END_BYTES = 1024  # a complete tar ends in two blocks of zeros at least
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """One file in a tar."""

    name: str  # without "./" before it
    size_bytes: int
    offset: int
    problem: str = ""  # why it cannot be read; "": nothing
    text: bytes = b""  # its contents, of labels, captions and metadata alone


class Loss(NamedTuple):
    """The place where the list of members breaks off."""

    offset: int
    problem: str


def read_members(file: BinaryIO, tar: str) -> tuple[list[Member], Loss | None]:
    """Return the files in a tar that are not hidden, by position, and the loss after them, if there is one.

    A last file that is cut short has a problem; if it is an image, its row stands for the loss.
    """
    num_bytes = file.seek(0, os.SEEK_END)
    members, end = _walk(file, num_bytes, tar)
    # tarfile stops silently at a damaged header, so the tar is whole only if nothing but zeros follows.
    if num_bytes - end >= _END_BYTES:
        file.seek(end)
        if not any(block.strip(b"\0") for block in iter(lambda: file.read(1 << 20), b"")):
            return members, None
    if members and members[-1].offset + members[-1].size_bytes > num_bytes and is_image_name(members[-1].name):
        return members, None
    file.seek(0)
    start = file.read(8)
    for magic, name in _COMPRESSIONS.items():
        if start.startswith(magic):
            return [], Loss(0, f"the tar is compressed with {name}, and images are read by position; unpack it")
    lost_from = min(end, num_bytes)
    return members, Loss(lost_from, f"the tar is damaged at byte {lost_from}: what follows is lost; copy it again")


def _walk(file: BinaryIO, num_bytes: int, tar_name: str) -> tuple[list[Member], int]:
    """Return the members, and the byte at which their list ends or breaks off."""
    members: list[Member] = []
    end = 0
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            # A damaged size can lead back, and so round for ever.
            while (header := tar.next()) is not None and tar.offset > end:
                end = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # or the headers of a large tar fill the memory
                is_link = (header.issym() or header.islnk()) and is_image_name(header.name)
                is_hidden = os.path.basename(header.name).startswith(".")
                if (header.isreg() or is_link) and not is_hidden:
                    members.append(_member(file, header, num_bytes, tar_name))
    except (tarfile.TarError, ValueError):  # ValueError: a number in an extended header that is not one
        pass  # the byte at which the list ended says enough
    return members, end


def _member(file: BinaryIO, header: tarfile.TarInfo, num_bytes: int, tar: str) -> Member:
    name = header.name.removeprefix("./")
    offset = header.offset_data
    size_bytes = header.size
    if not header.isreg():
        return Member(name, 0, offset, "is a link inside a tar; make it with --dereference --hard-dereference")
    if header.issparse():
        return Member(name, size_bytes, offset, "is stored as a sparse file; make the tar without --sparse")
    if offset + size_bytes > num_bytes:
        where = "this member" if is_image_name(name) else name
        problem = f"{tar} breaks off inside {where}, at byte {num_bytes}; copy the tar again"
        return Member(name, size_bytes, offset, problem)
    if not name.endswith(SIDECAR_SUFFIXES):
        return Member(name, size_bytes, offset)
    if size_bytes > _SIDECAR_MAX_BYTES:
        problem = f"{tar}: {name} is {size_bytes:,} bytes, too many for a label or caption; shorten it"
        return Member(name, size_bytes, offset, problem)
    file.seek(offset)
    return Member(name, size_bytes, offset, text=file.read(size_bytes))
